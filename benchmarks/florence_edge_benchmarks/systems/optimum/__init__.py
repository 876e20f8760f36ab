"""optimum as a compared system: the BART language model of a checkpoint, in its own environment."""
