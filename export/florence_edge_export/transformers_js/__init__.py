"""Files that transformers.js and others who read onnx-community's names load, from a checkpoint."""
