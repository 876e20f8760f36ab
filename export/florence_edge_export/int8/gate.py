"""The gate: an int8 bundle follows the float model's answers closely enough, or is not made.

Where a task loses more than the budget, blocks return to float, the most sensitive first, as few
as hold the budget (found by bisection).
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from florence_edge import Florence2
from florence_edge.bundle import Bundle
from florence_edge.errors import BundleError
from florence_edge_calibration.int8.recipe import Recipe, pattern_of
from florence_edge_calibration.int8.samples import Sample
from florence_edge_calibration.int8.sensitivity import sweep
from florence_edge_calibration.int8.table import CalibrationTable
from florence_edge_calibration.int8.targets import Floats
from florence_edge_calibration.int8.teacher import Agreement, Teacher

from .cost import Cost, measure_cost

logger = logging.getLogger(__name__)

LEAST_POSITIONS = 2_000
MOST_NEW_TOKENS = (
    64  # of an answer: enough for the longest of most pictures, and random weights stop
)
_SWEPT_PICTURES = 2
_MOST_LIFTED = 0.5  # of the blocks: with more in float the bundle would be int8 by name only

Agreements = Mapping[str, Agreement]


@dataclass(frozen=True, slots=True)
class Trial:
    """A recipe's bundle, tried: how it follows the float model, its size and its speed."""

    agreements: Agreements
    cost: Cost

    @property
    def worst(self) -> tuple[str, float]:
        """The task that loses most, and the share it loses."""
        task, agreement = max(self.agreements.items(), key=lambda item: item[1].loss)
        return task, agreement.loss

    def holds(self, budget: float) -> bool:
        """Whether no task loses more than the budget."""
        return self.worst[1] <= budget

    def verdict(self, budget: float) -> str:
        """The worst task in words."""
        task, loss = self.worst
        return f"{task} loses {loss:.4f} of its positions, where the budget is {budget:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """What went through the gate: the recipe that held, and what it took."""

    recipe: Recipe
    trial: Trial
    lifted: tuple[str, ...] = ()
    before: Trial | None = None  # with no block lifted, where some had to be


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gate:
    """What a bundle is judged by.

    `write` writes the int8 bundle of a recipe, in place of the one before, and returns it.
    `budget` is the largest share of decided positions that any task may lose.
    """

    floats: Bundle
    table: CalibrationTable
    samples: Sequence[Sample]
    write: Callable[[Recipe], Bundle]
    budget: float

    def find(self, recipe: Recipe) -> Passage:
        """The recipe closest to the one asked for that holds the budget; its bundle is written.

        Raises:
            BundleError: too few positions to judge by, or no recipe with at least half of the
                blocks in int8 holds the budget.
        """
        model = Florence2.load(self.floats.folder)
        progress = log_progress("The float model answers")
        teacher = Teacher(model, self.samples, progress, max_new_tokens=MOST_NEW_TOKENS)
        if teacher.positions < LEAST_POSITIONS:
            raise BundleError(
                f"{len(self.samples)} pictures give {teacher.positions} positions to judge by, "
                f"expected at least {LEAST_POSITIONS}. Pass a folder with more pictures, or "
                "--no-gate to export without judging."
            )

        def attempt(tried: Recipe) -> Trial:
            student = Florence2.load(self.write(tried).folder)
            agreements = teacher.judge(student, log_progress("int8 follows"))
            return Trial(agreements, measure_cost(model, student))

        first = attempt(recipe)
        if first.holds(self.budget):
            return Passage(recipe=recipe, trial=first)
        logger.info("%s. Ranking the blocks by their errors", first.verdict(self.budget))
        return self._lift(recipe, first, self._ranked(recipe), attempt)

    def _ranked(self, recipe: Recipe) -> list[str]:
        """The blocks in int8, the most sensitive first."""
        swept = sweep(self.floats, self.table, recipe, self.samples[:_SWEPT_PICTURES])
        return [each.block for each in sorted(swept, key=lambda each: -each.error)]

    def _lift(
        self,
        recipe: Recipe,
        first: Trial,
        ranked: Sequence[str],
        attempt: Callable[[Recipe], Trial],
    ) -> Passage:
        """Bisect for the fewest blocks in float that hold the budget."""
        most = int(len(ranked) * _MOST_LIFTED)
        best = most, attempt(lift(recipe, ranked[:most]))
        if not best[1].holds(self.budget):
            raise BundleError(
                f"{best[1].verdict(self.budget)}, even with the {most} most sensitive of "
                f"{len(ranked)} blocks in float. Allow more with --budget, or use --precision "
                "fp16; florence-calibrate --sensitivity shows what each block costs."
            )
        too_few, written = 0, most
        while best[0] - too_few > 1:
            written = (best[0] + too_few) // 2
            trial = attempt(lift(recipe, ranked[:written]))
            logger.info("%d blocks in float: %s", written, trial.verdict(self.budget))
            if trial.holds(self.budget):
                best = written, trial
            else:
                too_few = written
        chosen = lift(recipe, ranked[: best[0]])
        if written != best[0]:
            self.write(chosen)
        lifted = tuple(ranked[: best[0]])
        return Passage(recipe=chosen, trial=best[1], lifted=lifted, before=first)


def lift(recipe: Recipe, blocks: Sequence[str]) -> Recipe:
    """The recipe with these blocks in float: float16 where that is what is not int8."""
    floats: Floats = "fp32" if recipe.target == "cpu" else "fp16"
    lifted = {pattern_of(block): floats for block in blocks}
    return replace(recipe, kept={**recipe.kept, **lifted})


def log_progress(what: str) -> Callable[[int, int], None]:
    """Tell the log now and then how far it is."""

    def progress(done: int, count: int) -> None:
        if done == count or done % 16 == 0:
            logger.info("%s: %d of %d pictures", what, done, count)

    return progress
