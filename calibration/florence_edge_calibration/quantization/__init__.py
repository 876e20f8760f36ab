"""int8 and int4: see what activations are like, choose scales, write integer graphs, judge them."""
