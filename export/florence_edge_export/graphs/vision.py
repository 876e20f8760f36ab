"""The vision encoder: a picture becomes image tokens (DaViT and Florence-2's projector).

    pixels uint8 [B, S, S, 3]
      -> 4 x (strided convolution, then blocks of window attention and channel attention)
      -> + learned positions -> pooled token first, then the grid -> projection -> [B, I, d_model]

The feature map stays [B, H, W, C] from the stem on: layer norms and linears work on it as it is,
and only convolutions, windows and channel groups move data. The checkpoint's `qkv` is three
linears, since taking its output apart would copy all of it. Two things are folded into weights when
they are loaded: the factor of the queries (head_dim ** -0.5, or tokens ** -0.5 for channels) into
`q_proj`, and what a depthwise convolution is added to into the middle of its kernel.
"""

import onnx_ir as ir
from onnxscript import OpBuilder
from onnxscript.nn import Module, ModuleList, Parameter

from ..checkpoint.config import VisionConfig
from .cuda_vision import FusedWindowAttention
from .layers import (
    FeedForward,
    LayerNorm,
    Linear,
    Values,
    query_key_value,
    split_heads,
    split_heads_transposed,
)
from .windows import Windows

_TO_CHANNELS_FIRST = [0, 3, 1, 2]
_TO_CHANNELS_LAST = [0, 2, 3, 1]


class VisionEncoder(Module):
    """pixels [B, S, S, 3] uint8 -> image_features [B, I, d_model].

    Without `normalizes` it takes what others' image processors give: pixel_values [B, 3, S, S]
    float32, normalized. `fused` attends in windows by an operator of ONNX Runtime's CUDA provider.
    """

    def __init__(
        self,
        config: VisionConfig,
        image_size: int,
        *,
        normalizes: bool = True,
        fused: bool = False,
    ) -> None:
        super().__init__("vision_encoder")
        sides = config.sides(image_size)
        self.normalize = Normalize(config.in_channels) if normalizes else None
        self.convs = ModuleList([ConvEmbed(config, stage) for stage in range(len(sides))])
        self.stages = [
            ModuleList([Block(config, at, side, fused) for _ in range(config.depths[at])])
            for at, side in enumerate(sides)
        ]
        self.blocks = ModuleList(list(self.stages))
        self.projector = Projector(config, sides[-1])

    def forward(self, op: OpBuilder, inputs: Values) -> Values:
        if self.normalize is None:
            x = op.Transpose(inputs["pixel_values"], perm=_TO_CHANNELS_LAST)
        else:
            x = self.normalize(op, inputs["pixels"])
        for conv, blocks in zip(self.convs, self.stages, strict=True):
            x = conv(op, x)
            for block in blocks:
                x = block(op, x)
        return {"image_features": self.projector(op, x)}


class Normalize(Module):
    """uint8 -> (x / 255 - mean) / std, as one multiplication and one subtraction."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = Parameter([channels])
        self.shift = Parameter([channels])

    def forward(self, op: OpBuilder, pixels: ir.Value) -> ir.Value:
        x = op.Cast(pixels, to=ir.DataType.FLOAT)
        return op.Sub(op.Mul(x, self.scale), self.shift)


class Conv(Module):
    """A convolution over [B, H, W, C]; channels move first for it, as ONNX wants, and back."""

    def __init__(
        self, inputs: int, outputs: int, *, kernel: int, stride: int, padding: int, groups: int = 1
    ) -> None:
        super().__init__()
        self.weight = Parameter([outputs, inputs // groups, kernel, kernel])
        self.bias = Parameter([outputs])
        self.attributes = {
            "kernel_shape": [kernel, kernel],
            "strides": [stride, stride],
            "pads": [padding] * 4,
            "group": groups,
        }

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        x = op.Transpose(x, perm=_TO_CHANNELS_FIRST)
        x = op.Conv(x, self.weight, self.bias, **self.attributes)
        return op.Transpose(x, perm=_TO_CHANNELS_LAST)


class ConvEmbed(Module):
    """The strided convolution that opens a stage, with a layer norm before or after it."""

    def __init__(self, config: VisionConfig, stage: int) -> None:
        super().__init__()
        outputs = config.dims[stage]
        inputs = config.dims[stage - 1] if stage else config.in_channels
        self.prenorm = config.patch_prenorms[stage]
        self.conv = Conv(
            inputs,
            outputs,
            kernel=config.patch_sizes[stage],
            stride=config.patch_strides[stage],
            padding=config.patch_paddings[stage],
        )
        self.norm = LayerNorm(inputs if self.prenorm else outputs)

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        if self.prenorm:
            return self.conv(op, self.norm(op, x))
        return self.norm(op, self.conv(op, x))


class Block(Module):
    """One dual-attention block: over windows of pixels, then over groups of channels."""

    def __init__(self, config: VisionConfig, stage: int, side: int, fused: bool) -> None:
        super().__init__()
        # Attention wants biases, which every published Florence-2 has.
        in_windows = FusedWindowAttention if fused and config.qkv_bias else WindowAttention
        self.spatial_block = MixingBlock(config, stage, in_windows(config, stage, side))
        self.channel_block = MixingBlock(config, stage, ChannelAttention(config, stage, side))

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        return self.channel_block(op, self.spatial_block(op, x))


class MixingBlock(Module):
    """Depthwise convolution, attention, depthwise convolution, MLP; each with a residual.

    That of a convolution is in its kernel: x + conv(x) is a convolution with 1 more in the middle.
    """

    def __init__(self, config: VisionConfig, stage: int, attention: Module) -> None:
        super().__init__()
        width = config.dims[stage]
        self.conv1 = Conv(width, width, kernel=3, stride=1, padding=1, groups=width)
        self.norm1 = LayerNorm(width)
        self.attention = attention  # named by its class: window_attn or channel_attn
        self.conv2 = Conv(width, width, kernel=3, stride=1, padding=1, groups=width)
        self.norm2 = LayerNorm(width)
        self.ffn = FeedForward(width, int(width * config.mlp_ratio), config.activation)

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        x = self.conv1(op, x)
        x = op.Add(x, self.attention(op, self.norm1(op, x)))
        x = self.conv2(op, x)
        return op.Add(x, self.ffn(op, self.norm2(op, x)))


class WindowAttention(Module):
    """Self-attention inside windows of `window_size` squared pixels.

    Pixels are put in the order of their windows first, when there is least to move: the place in
    the window outermost, so that windows and heads are one batch. They go back behind `proj`.
    """

    def __init__(self, config: VisionConfig, stage: int, side: int) -> None:
        super().__init__("window_attn")
        self.width = config.dims[stage]
        self.heads = config.heads[stage]
        self.window = config.window_size
        self.windows = Windows(
            side=side, window=self.window, width=self.width, order=(2, 4, 0, 1, 3, 5)
        )
        self.q_proj, self.k_proj, self.v_proj = query_key_value(self.width, bias=config.qkv_bias)
        self.proj = Linear(self.width, self.width)

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        heads, head_dim = self.heads, self.width // self.heads
        x = op.Reshape(self.windows.gather(op, x), [self.window * self.window, -1, self.width])
        query, key, value = (
            op.Reshape(linear(op, x), [0, 0, heads, head_dim])
            for linear in (self.q_proj, self.k_proj, self.v_proj)
        )
        query = op.Transpose(query, perm=[1, 2, 0, 3])  # [B * windows, heads, tokens, head_dim]
        key = op.Transpose(key, perm=[1, 2, 3, 0])
        value = op.Transpose(value, perm=[1, 2, 0, 3])

        x = op.MatMul(op.Softmax(op.MatMul(query, key), axis=-1), value)

        x = op.Reshape(op.Transpose(x, perm=[2, 0, 1, 3]), [0, 0, self.width])
        return self.windows.scatter(op, self.proj(op, x))


class ChannelAttention(Module):
    """Attention of channels to channels inside a group; each is a row of all tokens."""

    def __init__(self, config: VisionConfig, stage: int, side: int) -> None:
        super().__init__("channel_attn")
        self.width = config.dims[stage]
        self.groups = config.groups[stage]
        self.side = side
        self.q_proj, self.k_proj, self.v_proj = query_key_value(self.width, bias=config.qkv_bias)
        self.proj = Linear(self.width, self.width)

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        groups, channels, tokens = self.groups, self.width // self.groups, self.side * self.side
        x = op.Reshape(x, [0, tokens, self.width])
        query = split_heads_transposed(op, self.q_proj(op, x), groups, channels)
        key = split_heads(op, self.k_proj(op, x), groups, channels)
        value = split_heads_transposed(op, self.v_proj(op, x), groups, channels)

        x = op.MatMul(op.Softmax(op.MatMul(query, key), axis=-1), value)

        x = op.Transpose(op.Reshape(x, [0, self.width, tokens]), perm=[0, 2, 1])
        return op.Reshape(self.proj(op, x), [0, self.side, self.side, self.width])


class Projector(Module):
    """Positions, pooling and the projection to the width of the text model.

    `position_embed` is the learned 2-D table of this grid plus row 0 of the temporal table: a
    picture is one frame.
    """

    def __init__(self, config: VisionConfig, side: int) -> None:
        super().__init__()
        self.width = config.dims[-1]
        self.tokens = side * side
        self.sources = config.feature_sources
        self.position_embed = Parameter([side, side, self.width])
        self.image_projection = Linear(self.width, config.projection_dim, bias=False)
        self.image_proj_norm = LayerNorm(config.projection_dim)

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        x = op.Reshape(op.Add(x, self.position_embed), [0, self.tokens, self.width])
        pooled = op.ReduceMean(x, [1], keepdims=1)
        # "temporal_avg_pool" is the mean over frames, and there is one frame.
        features = [pooled if source == "spatial_avg_pool" else x for source in self.sources]
        x = op.Concat(*features, axis=1)
        return self.image_proj_norm(op, self.image_projection(op, x))
