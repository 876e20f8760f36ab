"""A page to look at before training: samples, counts by class, scores, errors."""
