"""A checkpoint: where it comes from, what its files say, and its tensors by name."""
