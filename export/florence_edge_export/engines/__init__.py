"""Building TensorRT engines from a bundle; needs TensorRT and the runtime, nothing else."""
