"""What every compared system is asked to do."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from florence_edge.errors import RequestError
from florence_edge.options import GenerationOptions
from florence_edge.tasks import Needs, find_task

# What a task needs beside the picture, where only its length matters.
_BESIDE = {
    Needs.NOTHING: None,
    Needs.TEXT: "a red circle and a blue star",
    Needs.REGION: "<loc_200><loc_200><loc_800><loc_800>",
}

# How long answers are made that would not end of themselves. CAPTION and OD as in the
# comparisons of the README; a box is five tokens or more, a caption a sentence.
_USUAL_NEW_TOKENS = {"CAPTION": 20, "DETAILED_CAPTION": 60, "OD": 100, "OCR_WITH_REGION": 100}
_OTHER_NEW_TOKENS = 40


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
        """Refuse a workload that nothing could be asked to do.

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
        return _BESIDE[find_task(self.task).needs]

    @property
    def options(self) -> GenerationOptions:
        """How to generate."""
        return GenerationOptions(num_beams=self.beams, max_new_tokens=self.new_tokens)

    @property
    def name(self) -> str:
        """What to call it in tables: `OD, 3 beams, 100 tokens`."""
        return name_of(self.task, [self.beams], self.new_tokens, self.batch)

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> "Workload":
        """What `dataclasses.asdict` and JSON made of a workload."""
        return Workload(**found)


def name_of(task: str, beams: Collection[int], new_tokens: int | None, batch: int) -> str:
    """What to call workloads of these `beams`, which are named if there is one number of them."""
    parts = [task, *(map(beams_named, beams) if len(beams) == 1 else [])]
    if new_tokens is not None:
        parts.append(f"{new_tokens} tokens")
    if batch > 1:
        parts.append(f"batch of {batch}")
    return ", ".join(parts)


def beams_named(beams: int) -> str:
    """`greedy`, `3 beams`."""
    return "greedy" if beams == 1 else f"{beams} beams"


def workloads(
    tasks: Sequence[str],
    beams: Sequence[int],
    batches: Sequence[int],
    new_tokens: Mapping[str, int | None],
    image: str,
) -> list[Workload]:
    """All combinations; `new_tokens` says it by task."""
    return [
        Workload(task=task, beams=count, new_tokens=new_tokens[task], batch=batch, image=image)
        for task in tasks
        for count in beams
        for batch in batches
    ]


def new_tokens_of(
    tasks: Sequence[str], said: str | None, *, endless: bool
) -> dict[str, int | None]:
    """How many tokens each task is to generate.

    Args:
        tasks: names of tasks.
        said: `50` for all, or `CAPTION:20,OD:100`; tasks that are left out get the usual number.
        endless: whether the model would not end its answers itself, as random weights.

    Raises:
        RequestError: `said` is neither form, or names a task that is not among `tasks`.
    """
    usual: dict[str, int | None] = {
        task: _USUAL_NEW_TOKENS.get(task, _OTHER_NEW_TOKENS) if endless else None for task in tasks
    }
    if said is None:
        return usual
    if ":" not in said:
        return dict.fromkeys(tasks, _count(said))
    for part in said.split(","):
        task, _, count = part.partition(":")
        name = find_task(task).name
        if name not in usual:
            raise RequestError(
                f"--new-tokens is for {name}, which is not among --tasks: {', '.join(tasks)}."
            )
        usual[name] = _count(count)
    return usual


def _count(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise RequestError(
            f"{text!r} is no number of new tokens. Expected --new-tokens 50, or one for each task: "
            "--new-tokens CAPTION:20,OD:100."
        )
    return int(text)
