"""Scenes with known truth, fidelity measures, and everything that decides and writes precision."""
