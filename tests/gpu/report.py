"""The figures of a visit beside the goals, as a page.

    python -m gpu.report --figures FILE --output report.md

Says of each goal whether it was reached, and of what was not measured that it was not. Needs no
GPU: it can be written again from the file that a visit brought back.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence_edge.files import write_whole

from .figures import FAILED, Figures, read

EAGER, COMPILED = 8.0, 2.0  # times transformers in float16: CAPTION, 3 beams, base
FLOOR = 0.7  # of the time that memory alone would take: a step
ANSWER = "CAPTION, 3 beams: fp16 on cuda"
STEP = "base fp16 graph, beams"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A goal, what was reached (None: not measured), and the figures that say so."""

    name: str
    aimed: float
    reached: float | None
    source: str

    def line(self) -> str:
        """A row of the table."""
        if self.reached is None:
            return f"| {self.name} | {self.aimed:g} | not measured | | {self.source} |"
        met = "yes" if self.reached >= self.aimed else "no"
        return f"| {self.name} | {self.aimed:g} | {self.reached:.3g} | {met} | {self.source} |"


def goals(figures: Mapping[str, Any]) -> Iterator[Goal]:
    """All goals, measured or not."""
    for name, aimed, label in (
        ("eager", EAGER, "transformers-fp16 on cuda"),
        ("compiled", COMPILED, "transformers-fp16-compile on cuda"),
    ):
        reached, source = in_turns(figures, label)
        if reached is None:
            reached, source = one_after_the_other(figures, name)
        yield Goal(
            name=f"base fp16, CAPTION, 3 beams: times transformers fp16 {name}",
            aimed=aimed,
            reached=reached,
            source=source,
        )
    for beams in (3, 1):
        yield Goal(
            name=f"a step of base fp16, beams {beams}: share of the bandwidth floor",
            aimed=FLOOR,
            reached=share_of_floor(figures, beams),
            source="steps, bandwidth",
        )


def in_turns(figures: Mapping[str, Any], label: str) -> tuple[float | None, str]:
    """The median ratio of answers in the same rounds."""
    spread = figures.get("answers", {}).get(ANSWER, {}).get(f"times {label}")
    return (None if spread is None else spread[0]), "answers, in turns"


def one_after_the_other(figures: Mapping[str, Any], name: str) -> tuple[float | None, str]:
    """Median answers of different processes; of the ways to compile, the fastest."""
    theirs = [
        figure["answer ms"]["p50"]
        for key, figure in figures.get("transformers", {}).items()
        if key.startswith(name) and key.endswith(", beams 3")
    ]
    ours = figures.get("answers", {}).get(ANSWER, {}).get("answer ms")
    if not theirs or ours is None:
        return None, "answers, transformers"
    return min(theirs) / ours, "answers and transformers, not in turns"


def share_of_floor(figures: Mapping[str, Any], beams: int) -> float | None:
    """What a step would take if it only read its weights and caches, by what it takes."""
    steps, rate = figures.get("steps", {}), figures.get("bandwidth", {}).get("copy GB/s")
    step, floor = steps.get(f"{STEP} {beams}"), steps.get("base fp16 floor bytes")
    if rate is None or step is None or floor is None:
        return None
    milliseconds = min(one["p50"] for key, one in step.items() if key.startswith("step ms"))
    return float(sum(floor.values()) / rate["best"] / 1e6 / milliseconds)


def page(figures: Mapping[str, Any]) -> str:
    """The goals, then what failed, then every figure."""
    lines = ["# A visit to a GPU", ""]
    lines += [f"{key}: {value}  " for key, value in figures.get("machine", {}).items()]
    lines += ["", "| goal | aimed at | reached | met | from |", "| --- | ---: | ---: | --- | --- |"]
    lines += [goal.line() for goal in goals(figures)]
    failed = list(failures(figures))
    lines += ["", "## What failed", "", *(f"- {each}" for each in failed or ["nothing"])]
    for section, found in figures.items():
        lines += ["", f"## {section}", ""]
        lines += [f"- {key}: {_in_words(value)}" for key, value in found.items()]
    return "\n".join(lines) + "\n"


def failures(figures: Mapping[str, Any]) -> Iterator[str]:
    """Stages that ended badly, and parts of them."""
    for stage, ended in figures.get("stages", {}).items():
        if ended.get("status"):
            yield f"stage {stage}: status {ended['status']} after {ended['seconds']} s"
    for section, found in figures.items():
        for key, value in found.items():
            if key.endswith(FAILED):
                yield f"{section}: {key}: {value}"


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_in_words(each)}" for key, each in value.items())
    return str(value)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--figures", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    told = parser.parse_args()
    figures = Figures(told.figures, "goals")
    for goal in goals(read(told.figures)):
        reached = None if goal.reached is None else round(goal.reached, 3)
        figures.put(goal.name, {"aimed at": goal.aimed, "reached": reached, "from": goal.source})
    write_whole(told.output, page(read(told.figures)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
