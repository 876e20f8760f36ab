"""The graphs of Florence-2, written as `onnxscript.nn` modules with the checkpoint's names."""
