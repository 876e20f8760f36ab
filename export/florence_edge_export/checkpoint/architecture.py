"""The numbers of a Florence-2 model that its graphs are built from."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig:
    """DaViT and the projector behind it; one entry a stage where there are several."""

    in_channels: int
    dims: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    groups: tuple[int, ...]
    patch_sizes: tuple[int, ...]
    patch_strides: tuple[int, ...]
    patch_paddings: tuple[int, ...]
    patch_prenorms: tuple[bool, ...]
    window_size: int
    mlp_ratio: float
    qkv_bias: bool
    activation: str
    projection_dim: int
    position_embeddings: int
    temporal_embeddings: int
    feature_sources: tuple[str, ...]

    def grid(self, image_size: int) -> int:
        """Side of the square of image tokens that leaves the last stage."""
        return self.sides(image_size)[-1]

    def sides(self, image_size: int) -> tuple[int, ...]:
        """Side of the feature map of each stage (the arithmetic of a strided convolution)."""
        sides = []
        for kernel, stride, padding in zip(
            self.patch_sizes, self.patch_strides, self.patch_paddings, strict=True
        ):
            image_size = (image_size + 2 * padding - kernel) // stride + 1
            sides.append(image_size)
        return tuple(sides)

    def image_tokens(self, image_size: int) -> int:
        """How many tokens a picture becomes: 577 for Florence-2 at 768 pixels."""
        per_source = {"spatial_avg_pool": 1, "temporal_avg_pool": None, "last_frame": None}
        return sum(
            per_source[source] or self.grid(image_size) ** 2 for source in self.feature_sources
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """BART: post-norm encoder and decoder over one tied embedding."""

    vocab_size: int
    d_model: int
    encoder_layers: int
    encoder_heads: int
    encoder_ffn: int
    decoder_layers: int
    decoder_heads: int
    decoder_ffn: int
    positions: int
    activation: str
    scale_embedding: bool
