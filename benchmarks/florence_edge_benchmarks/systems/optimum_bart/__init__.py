"""optimum as a competitor: the BART language model of a checkpoint, in its own environment."""
