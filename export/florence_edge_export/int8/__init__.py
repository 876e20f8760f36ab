"""int8 bundles: what is asked for, the way there, the gate, and what is written down."""
