"""The gate: what a dtype costs along the float model's own answers, task by task.

A dtype's four files are led along the greedy answers of the float32 bundle (see agreement.py) and
judged by the share of decided positions that each task loses. Where a task loses more than the
budget, the graph that costs most by itself is stored more finely, rung by rung, until the budget is
held or no rung is left (see recipes.py).
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from florence_edge import Florence2
from florence_edge.bundle import TOKENIZER
from florence_edge.errors import BundleError
from florence_edge.tokenizer import Tokenizer
from florence_edge_calibration.quantization.agreement import Judged, TeacherForcing
from florence_edge_calibration.quantization.dataset import CalibrationSample

from ..progress import log_progress
from ..quantization.gate import MAX_NEW_TOKENS, MIN_POSITIONS
from . import layout
from .ort_backend import Model, OrtBackend, open_file

logger = logging.getLogger(__name__)

_SOLO_PICTURES = 4  # to tell which of four graphs costs most, not how much

Files = Mapping[str, Path]  # by graph
Write = Callable[[str, int], Path]  # a graph at a rung -> its file


@dataclass(frozen=True, slots=True)
class Passage:
    """A dtype that was tried: what it costs in the end, and the rung of each graph there."""

    judged: Judged
    rungs: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gate:
    """What dtypes are judged by; `open_gate` makes it.

    `budget` is the largest share of decided positions that any task may lose, `floats` the files
    of the same layout in float32.
    """

    answers: Florence2
    teacher: TeacherForcing
    few: TeacherForcing
    model: Model
    floats: Files
    budget: float

    def judge(self, files: Files, *, whole: bool = True) -> Judged:
        """Lead four files along the float model's answers.

        Unless it is to be the whole, that ends as soon as the budget is certain not to be held.
        """
        progress = log_progress("It follows")
        budget = None if whole else self.budget
        with self._student(files) as student:
            judged = Judged(self.teacher.judge(student, progress, budget=budget))
        return judged if whole else replace(judged, broken_off=not judged.holds(self.budget))

    def pass_dtype(
        self, write: Write, start: Mapping[str, int], rungs: Mapping[str, int]
    ) -> Passage:
        """Write a dtype's files, each graph as coarsely as the budget lets.

        Args:
            write: puts a graph at a rung in its place, and says where that is.
            start: the rung of each graph to begin with.
            rungs: how many each graph has; the last is the finest.

        Returns:
            The passage; it may hold the budget, or not, with every graph at its last rung.
        """
        at = dict(start)
        files = {graph: write(graph, rung) for graph, rung in at.items()}
        judged = self.judge(files)
        alone: dict[str, float] = {}
        while not judged.holds(self.budget):
            finer = [graph for graph in layout.GRAPHS if at[graph] + 1 < rungs[graph]]
            if not finer:
                break
            for graph in finer:
                if graph not in alone:
                    alone[graph] = self._alone(graph, files[graph])
            worst = max(finer, key=alone.__getitem__)
            at[worst] += 1
            del alone[worst]
            task, loss = judged.worst
            logger.info("%s loses %.4f; %s is stored more finely", task, loss, worst)
            files[worst] = write(worst, at[worst])
            judged = self.judge(files, whole=False)
        return Passage(judged, at)

    def _alone(self, graph: str, file: Path) -> float:
        """What one graph costs by itself: how much less likely the float model's tokens become."""
        with self._student({**self.floats, graph: file}) as student:
            found = Judged(self.few.judge(student, lambda done, count: None)).all_tasks
        return float("inf") if found.broken else found.drop / max(1, found.positions)

    def _student(self, files: Files) -> Florence2:
        bundle = self.answers.bundle
        backend = OrtBackend({name: open_file(path) for name, path in files.items()}, self.model)
        return Florence2(bundle, backend, Tokenizer(bundle.folder / TOKENIZER, bundle.generation))


def open_gate(
    answers: Florence2,
    samples: Sequence[CalibrationSample],
    model: Model,
    floats: Files,
    budget: float,
) -> Gate:
    """Let the float model answer about the samples.

    Raises:
        BundleError: that gives too few positions to judge by.
    """
    progress = log_progress("The float model answers")
    teacher = TeacherForcing(answers, samples, progress, max_new_tokens=MAX_NEW_TOKENS)
    if teacher.decided < MIN_POSITIONS // 10 or teacher.positions < MIN_POSITIONS:
        raise BundleError(
            f"{len(samples)} pictures give {teacher.positions} positions to judge by, of which the "
            f"float model is decided at {teacher.decided}; expected at least {MIN_POSITIONS} and "
            f"{MIN_POSITIONS // 10}. Pass a folder with more pictures, or --no-gate to export "
            "without judging; if the checkpoint is not trained there is nothing to judge by."
        )
    few = TeacherForcing(
        answers,
        samples[:_SOLO_PICTURES],
        lambda done, count: None,
        max_new_tokens=MAX_NEW_TOKENS,
    )
    return Gate(
        answers=answers, teacher=teacher, few=few, model=model, floats=floats, budget=budget
    )
