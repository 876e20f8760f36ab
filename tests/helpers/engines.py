"""A device that engines are built on, and sizes of models: values that several tests share."""

from florence_edge.contract import ModelSize
from florence_edge.tensorrt.manifest import TargetDevice

ORIN = TargetDevice(
    gpu="Orin",
    multiprocessors=16,
    compute_capability="8.7",
    flavour="tensorrt",
    tensorrt="10.3.0",
    driver="12.6",
    l4t="36.4.3",
)

BASE_SIZE = ModelSize(
    image_size=768,
    image_tokens=577,
    d_model=768,
    decoder_layers=6,
    decoder_heads=12,
    vocab_size=51289,
    encoder_positions=1024,
    decoder_positions=1024,
)

TOY_SIZE = ModelSize(
    image_size=64,
    image_tokens=5,
    d_model=8,
    decoder_layers=1,
    decoder_heads=2,
    vocab_size=100,
    encoder_positions=64,
    decoder_positions=64,
)
