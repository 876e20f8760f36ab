"""florence-build: the graphs of a bundle become TensorRT engines."""
