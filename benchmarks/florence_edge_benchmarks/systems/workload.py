"""What every compared system is to answer, and the picture that it is about.

Where the user names no picture, it is a generated scene.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from florence_edge.errors import RequestError
from florence_edge.options import GenerationOptions
from florence_edge.tasks import Needs, find_task
from florence_edge_calibration.scenes import draw_scene, generate_scene

from ..timing import Timing

SCENE_SEED = 900_100  # not among the miniature's
_SIDE = 640
_QUALITY = 90


def scene_picture(folder: Path, seed: int = SCENE_SEED) -> Path:
    """A generated scene as a JPEG file of 640 x 640 pixels; the folder is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"scene-{seed}.jpg"
    draw_scene(generate_scene(seed), _SIDE).save(path, quality=_QUALITY)
    return path


# What a task needs beside the picture, where only its length matters.
_TEXTS = {
    Needs.NOTHING: None,
    Needs.TEXT: "a red circle and a blue star",
    Needs.REGION: "<loc_200><loc_200><loc_800><loc_800>",
}

# How long answers are made that would not end of themselves. CAPTION and OD as in the
# comparisons of the README; a box is five tokens or more, a caption a sentence.
_NEW_TOKENS = {"CAPTION": 20, "DETAILED_CAPTION": 60, "OD": 100, "OCR_WITH_REGION": 100}
_DEFAULT_NEW_TOKENS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One task about one picture, or about a batch that holds it several times.

    `new_tokens` is the exact number of tokens to generate; None lets the model end its answer.
    """

    task: str
    beams: int
    new_tokens: int | None
    batch: int
    image: str

    def __post_init__(self) -> None:
        """Refuse a workload that no system could answer.

        Raises:
            RequestError: there is no such task, or a number is below 1.
        """
        find_task(self.task)
        if min(self.beams, self.batch, 1 if self.new_tokens is None else self.new_tokens) < 1:
            raise RequestError(
                f"{self.beams} beams, {self.new_tokens} tokens, a batch of {self.batch}; "
                "expected 1 or more of each"
            )

    @property
    def text(self) -> str | None:
        """What goes beside the picture."""
        return _TEXTS[find_task(self.task).needs]

    @property
    def options(self) -> GenerationOptions:
        """How to generate."""
        return GenerationOptions(
            num_beams=self.beams, max_new_tokens=self.new_tokens, min_new_tokens=self.new_tokens
        )

    @property
    def name(self) -> str:
        """What to call it in tables: `OD, 3 beams, 100 tokens`."""
        return name_workload(self.task, [self.beams], self.new_tokens, self.batch)


TimedAnswer = Callable[[Workload], Timing]
"""A system that answers once; it raises a BackendError where that fails."""


def name_workload(task: str, beams: Collection[int], new_tokens: int | None, batch: int) -> str:
    """What to call workloads of these `beams`, which are named if there is one number of them."""
    parts = [task, *(map(name_beams, beams) if len(beams) == 1 else [])]
    if new_tokens is not None:
        parts.append(f"{new_tokens} tokens")
    if batch > 1:
        parts.append(f"batch of {batch}")
    return ", ".join(parts)


def name_beams(beams: int) -> str:
    """`greedy`, `3 beams`."""
    return "greedy" if beams == 1 else f"{beams} beams"


def workloads(
    tasks: Sequence[str],
    beams: Sequence[int],
    batches: Sequence[int],
    new_tokens: Mapping[str, int | None],
    image: str,
) -> list[Workload]:
    """All combinations; `new_tokens` is by task."""
    return [
        Workload(task=task, beams=count, new_tokens=new_tokens[task], batch=batch, image=image)
        for task in tasks
        for count in beams
        for batch in batches
    ]


def new_tokens_by_task(
    tasks: Sequence[str], given: str | None, *, endless: bool
) -> dict[str, int | None]:
    """How many tokens each task is to generate; None lets the model end its answer.

    Args:
        tasks: names of tasks.
        given: `50` for all, or `CAPTION:20,OD:100`; tasks that are left out get their default.
        endless: whether the model would not end its answers itself, as random weights.

    Raises:
        RequestError: `given` has neither form, or names a task that is not among `tasks`.
    """
    counts: dict[str, int | None] = {
        task: _NEW_TOKENS.get(task, _DEFAULT_NEW_TOKENS) if endless else None for task in tasks
    }
    if given is None:
        return counts
    if ":" not in given:
        return dict.fromkeys(tasks, _count(given))
    for part in given.split(","):
        task, _, count = part.partition(":")
        name = find_task(task).name
        if name not in counts:
            raise RequestError(
                f"--new-tokens is for {name}, which is not among --tasks: {', '.join(tasks)}."
            )
        counts[name] = _count(count)
    return counts


def _count(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise RequestError(
            f"{text!r} is not a number of new tokens. Expected --new-tokens 50, or one for each "
            "task: --new-tokens CAPTION:20,OD:100."
        )
    return int(text)
