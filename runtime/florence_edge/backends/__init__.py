"""Engines that run the three graphs, and the memory between them."""
