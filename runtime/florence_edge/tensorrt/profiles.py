"""The shapes that TensorRT engines are built for, and which of an engine's profiles serves a call.

TensorRT tunes kernels per profile. What costs time in a profile is fixed or nearly so; what does
not is a range, so that there are few profiles and an 8 GB board is done building the same day:

    graph           profiles, in order of their index     ranges in each (opt, what is tuned for)
    vision_encoder  one                                   B (max)
    text_encoder    the fixed prompts; longer prompts     B (max), T and E (64 tokens)
    decoder         one a cache capacity S: 64, 128, ...  B, N (max), E (the fixed prompts)
    the same, in place   one                              B, N (max), E, S (64)

The linears of a decoder step, nine tenths of its bytes, have only B * N rows; attention has S and
E. In place, S only says how much of a cache is read, and one profile serves all of it. Prompts are
padded to a bucket, so that a CUDA graph captured for one prompt serves the next.

Greedy has no profiles of its own: its kernels want the weights in another layout, and a second copy
of them (a decoder of 355 MB instead of 257: results/tensorrt/rtx_builds.json) is dearer than what
they might save. Whoever decodes greedily alone builds with one beam. Symbols are those of
`contract`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from .. import contract
from ..contract import ModelSize, Tensor
from ..errors import BackendError, RequestError

FIRST_PROMPT = 16  # tokens; every task without free text fits: they have 8 to 15
LONGER_PROMPT = 64  # what text encoders are tuned for beyond that: a caption to be grounded

InputShape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What engines are built for: the largest numbers of images, beams and tokens they will serve.

    `workspace_mb` limits the scratch memory of one kernel. TensorRT's own default is all there is,
    and on a board whose GPU shares its memory the builder then tries kernels until it is killed.
    `in_place` is the cache capacity where the decoder that updates its caches in place is built,
    else 0: it has room for `max_new_tokens`.
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
        for name, value, limit, expected in (
            ("batch", self.batch, None, "1 or more images"),
            ("beams", self.beams, contract.MAX_BEAMS, f"1 (greedy) to {contract.MAX_BEAMS}"),
            ("max-new-tokens", self.max_new_tokens, positions, f"1 to {positions} (the model's)"),
            ("workspace", self.workspace_mb, None, "1 or more megabytes"),
        ):
            if value < 1 or (limit is not None and value > limit):
                raise RequestError(f"--{name} is {value}; expected {expected}.")


@dataclass(frozen=True, slots=True)
class Range:
    """The range of one symbol, as TensorRT has it: kernels are chosen for `opt`."""

    min: int
    opt: int
    max: int


@dataclass(frozen=True, slots=True)
class Profile:
    """One optimization profile: a range for each symbol of a graph's inputs."""

    ranges: Mapping[str, Range]

    def shapes(self, tensor: Tensor) -> tuple[InputShape, InputShape, InputShape]:
        """Min, opt and max of `tensor`, as `IOptimizationProfile.set_shape` takes them."""
        ranges = [
            Range(side, side, side) if isinstance(side, int) else self.ranges[side]
            for side in tensor.shape
        ]
        return (
            tuple(each.min for each in ranges),
            tuple(each.opt for each in ranges),
            tuple(each.max for each in ranges),
        )

    def serves(self, sides: Mapping[str, int]) -> bool:
        """Whether a call with these values of symbols (those not named: any) is within it."""
        return all(
            allowed.min <= sides.get(symbol, allowed.min) <= allowed.max
            for symbol, allowed in self.ranges.items()
        )


def profiles(size: ModelSize, options: EngineOptions) -> dict[str, tuple[Profile, ...]]:
    """The profiles of every graph, in the order of their index in the engine."""
    batch = Range(1, options.batch, options.batch)
    return {
        contract.VISION_ENCODER: (Profile({"B": batch}),),
        contract.TEXT_ENCODER: tuple(
            Profile({"B": batch, "T": prompt, "E": _plus(prompt, size.image_tokens)})
            for prompt in _prompt_ranges(size)
        ),
        contract.DECODER: tuple(
            _decoder_profile(size, batch, Range(1, options.beams, options.beams), cached)
            for cached in _cached_rows(options, size)
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
    requested = ", ".join(f"{symbol} = {value}" for symbol, value in sides.items())
    raise BackendError(
        f"No profile of the engine serves {requested}. Build engines for it with florence-build "
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


def _cached_rows(options: EngineOptions, size: ModelSize) -> tuple[Range, ...]:
    """Rows that a step reads: those of a cache, or in place those that it attends to."""
    capacities = cache_capacities(options.max_new_tokens, size)
    if options.in_place:
        return (Range(capacities[0], capacities[0], options.in_place),)
    return tuple(Range(capacity, capacity, capacity) for capacity in capacities)


def _prompt_ranges(size: ModelSize) -> tuple[Range, ...]:
    first, *longer = prompt_buckets(size)
    if not longer:
        return (Range(first, first, first),)
    opt = max(bucket for bucket in longer if bucket <= max(LONGER_PROMPT, longer[0]))
    return Range(first, first, first), Range(longer[0], opt, longer[-1])


def _decoder_profile(size: ModelSize, batch: Range, beams: Range, cached: Range) -> Profile:
    buckets = prompt_buckets(size)
    encoded = _plus(Range(buckets[0], buckets[0], buckets[-1]), size.image_tokens)
    rows = Range(batch.min * beams.min, batch.opt * beams.opt, batch.max * beams.max)
    return Profile({"B": batch, "N": beams, "R": rows, "S": cached, "E": encoded})


def _plus(prompt: Range, tokens: int) -> Range:
    return Range(prompt.min + tokens, prompt.opt + tokens, prompt.max + tokens)
