"""Engines spread shards over workers: processes of this machine, or actors of a Ray cluster."""
