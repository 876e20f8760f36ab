"""What an int8 bundle can be made for, and what its other numbers can be."""

from typing import Literal

Target = Literal["tensorrt", "cpu"]
Floats = Literal["fp16", "fp32"]

TARGETS: tuple[Target, ...] = ("tensorrt", "cpu")
