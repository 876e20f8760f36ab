"""TensorRT engines on disk: which there are, what they were built for, what is installed."""
