"""A bundle held against transformers: the reference, the comparison, its limits."""
