"""int8: see what activations are like, choose scales, write integer graphs, judge them."""
