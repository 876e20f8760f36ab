"""The shapes that TensorRT engines are built for, and which of an engine's profiles serves a call.

TensorRT tunes kernels per profile. What costs time in a profile is fixed or nearly so; what does
not is a range, so that there are few profiles and an 8 GB board is done building the same day:

    graph           profiles, in order of their index     ranges in each (tuned for)
    vision_encoder  one                                   B (most)
    text_encoder    the fixed prompts; longer prompts     B (most), T and E (64 tokens)
    decoder         one a cache capacity S: 64, 128, ...  B, N (most), E (the fixed prompts)

The linears of a decoder step, nine tenths of its bytes, see only its B * N rows; attention sees S,
of which each profile has one, and E. Prompts are padded to a bucket, so that a CUDA graph captured
for one prompt serves the next.

Greedy has no profiles of its own: its kernels want the weights in another layout, and a second copy
of them (a decoder of 355 MB instead of 257: tests/export/rtx_builds.json) is dearer than what they
might save. Whoever decodes greedily alone builds with one beam. Symbols are those of `contract`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from .. import contract
from ..contract import ModelSize, Tensor
from ..errors import BackendError, RequestError

FIRST_PROMPT = 16  # tokens; every task without free text fits: they have 8 to 15
LONGER_PROMPT = 64  # what text encoders are tuned for beyond that: a caption to be grounded

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What engines are built for: the most images, beams and tokens that they will serve.

    `workspace_mb` limits the scratch memory of one kernel. TensorRT's own default is all there is,
    and on a board whose GPU shares its memory the builder then tries kernels until it is killed.
    `in_place` is the cache capacity where the bundle's in-place decoder is built, else 0.
    """

    batch: int = 1
    beams: int = 3
    max_new_tokens: int = 256
    workspace_mb: int = 1024
    in_place: int = 0

    def check(self, size: ModelSize) -> None:
        """Refuse what the model cannot do.

        Raises:
            RequestError: a value is out of range; the message says which range.
        """
        positions = size.decoder_positions
        for name, value, most, expected in (
            ("batch", self.batch, None, "1 or more images"),
            ("beams", self.beams, contract.MAX_BEAMS, f"1 (greedy) to {contract.MAX_BEAMS}"),
            ("max-new-tokens", self.max_new_tokens, positions, f"1 to {positions} (the model's)"),
            ("workspace", self.workspace_mb, None, "1 or more megabytes"),
        ):
            if value < 1 or (most is not None and value > most):
                raise RequestError(f"--{name} is {value}; expected {expected}.")


@dataclass(frozen=True, slots=True)
class Extent:
    """The range of one symbol, and the value that kernels are chosen for."""

    least: int
    usual: int
    most: int


@dataclass(frozen=True, slots=True)
class Profile:
    """One optimization profile: an extent for each symbol of a graph's inputs."""

    extents: Mapping[str, Extent]

    def shapes(self, tensor: Tensor) -> tuple[Shape, Shape, Shape]:
        """Least, usual and most of `tensor`, as `IOptimizationProfile.set_shape` takes them."""
        least, usual, most = (
            tuple(
                side if isinstance(side, int) else getattr(self.extents[side], which)
                for side in tensor.shape
            )
            for which in ("least", "usual", "most")
        )
        return least, usual, most

    def serves(self, sides: Mapping[str, int]) -> bool:
        """Whether a call with these values of symbols (those not named: any) is within it."""
        return all(
            extent.least <= sides.get(symbol, extent.least) <= extent.most
            for symbol, extent in self.extents.items()
        )


def profiles(size: ModelSize, options: EngineOptions) -> dict[str, tuple[Profile, ...]]:
    """The profiles of every graph, in the order of their index in the engine."""
    batch = Extent(1, options.batch, options.batch)
    return {
        contract.VISION_ENCODER: (Profile({"B": batch}),),
        contract.TEXT_ENCODER: tuple(
            Profile({"B": batch, "T": prompt, "E": _plus(prompt, size.image_tokens)})
            for prompt in _prompt_extents(size)
        ),
        contract.DECODER: tuple(
            _decoder_profile(size, batch, Extent(1, options.beams, options.beams), capacity)
            for capacity in _capacities(options, size)
        ),
    }


def profile_index(of_graph: tuple[Profile, ...], sides: Mapping[str, int]) -> int:
    """The first profile that serves a call, e.g. {"B": 1, "N": 3, "S": 64, "E": 593}.

    Raises:
        BackendError: none does.
    """
    for index, profile in enumerate(of_graph):
        if profile.serves(sides):
            return index
    asked = ", ".join(f"{symbol} = {value}" for symbol, value in sides.items())
    raise BackendError(
        f"No profile of the engine serves {asked}. Build engines for it with florence-build "
        "(--batch, --beams, --max-new-tokens)."
    )


def prompt_buckets(size: ModelSize) -> tuple[int, ...]:
    """Prompt lengths T that prompts are padded to: 16, 32, 64, ... and all that the model has."""
    room = size.encoder_positions - size.image_tokens
    buckets = []
    bucket = FIRST_PROMPT
    while bucket < room:
        buckets.append(bucket)
        bucket *= 2
    return (*buckets, room)


def prompt_bucket(tokens: int, size: ModelSize) -> int:
    """The smallest bucket that holds a prompt of `tokens`; the model's room bounds `tokens`."""
    return next(bucket for bucket in prompt_buckets(size) if bucket >= tokens)


def cache_capacities(max_new_tokens: int, size: ModelSize) -> tuple[int, ...]:
    """The cache buckets S that an answer of `max_new_tokens` goes through."""
    largest = contract.cache_capacity(max_new_tokens, size.decoder_positions)
    capacities = [contract.cache_capacity(1, size.decoder_positions)]
    while capacities[-1] < largest:
        capacities.append(contract.cache_capacity(capacities[-1] + 1, size.decoder_positions))
    return tuple(capacities)


def _capacities(options: EngineOptions, size: ModelSize) -> tuple[int, ...]:
    """The in-place decoder has one capacity, of a fixed number of rows."""
    if options.in_place:
        return (options.in_place,)
    return cache_capacities(options.max_new_tokens, size)


def _prompt_extents(size: ModelSize) -> tuple[Extent, ...]:
    first, *longer = prompt_buckets(size)
    if not longer:
        return (Extent(first, first, first),)
    usual = max(bucket for bucket in longer if bucket <= max(LONGER_PROMPT, longer[0]))
    return Extent(first, first, first), Extent(longer[0], usual, longer[-1])


def _decoder_profile(size: ModelSize, batch: Extent, beams: Extent, capacity: int) -> Profile:
    buckets = prompt_buckets(size)
    encoded = _plus(Extent(buckets[0], buckets[0], buckets[-1]), size.image_tokens)
    rows = Extent(batch.least * beams.least, batch.usual * beams.usual, batch.most * beams.most)
    cache = Extent(capacity, capacity, capacity)
    return Profile({"B": batch, "N": beams, "R": rows, "S": cache, "E": encoded})


def _plus(extent: Extent, tokens: int) -> Extent:
    return Extent(extent.least + tokens, extent.usual + tokens, extent.most + tokens)
