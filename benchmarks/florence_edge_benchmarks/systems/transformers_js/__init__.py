"""transformers.js as a compared system: the npm package in Node, on onnxruntime-node."""
