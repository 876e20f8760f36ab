"""From a Florence-2 checkpoint to a bundle of three ONNX graphs."""
