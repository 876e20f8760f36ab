"""A map of pixels in the order of its windows, for attention inside them, and back."""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnxscript import OpBuilder


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """A map [B, side, side, width] as A x A windows of `window` squared pixels.

    Where `side` is not a multiple of the window the map is padded below and to the right, and
    padding is attended to, as in the original. `order` is where the dimensions
    (B, A, window, A, window, width) go.
    """

    side: int
    window: int
    width: int
    order: Sequence[int]

    def gather(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        """The map's pixels by window, in six dimensions."""
        if self._padding:
            x = op.Pad(x, [0, 0, 0, 0, 0, self._padding, self._padding, 0])
        return op.Transpose(op.Reshape(x, self._dimensions), perm=list(self.order))

    def scatter(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        """The map, from pixels in that order, however they are shaped."""
        x = op.Reshape(x, [self._dimensions[at] for at in self.order])
        x = op.Transpose(x, perm=[self.order.index(at) for at in range(len(self.order))])
        padded = self.side + self._padding
        x = op.Reshape(x, [-1, padded, padded, self.width])
        return op.Slice(x, [0, 0], [self.side, self.side], [1, 2]) if self._padding else x

    @property
    def _padding(self) -> int:
        return -self.side % self.window

    @property
    def _dimensions(self) -> list[int]:
        across = (self.side + self._padding) // self.window
        return [-1, across, self.window, across, self.window, self.width]
