"""A checkpoint: where it comes from, what it states, and its tensors by name."""
