"""The miniature, a small Florence-2 that does all 15 tasks on generated scenes: its training."""
