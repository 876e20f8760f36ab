"""What is written down about a quantized bundle: fidelity.json, and the same as a page to read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence_edge import GenerationOptions
from florence_edge.bundle import Bundle
from florence_edge_calibration.metrics import FreeAnswer, Verdict, judge
from florence_edge_calibration.overflow import Lifted
from florence_edge_calibration.quantization.calibration_table import CalibrationTable
from florence_edge_calibration.quantization.dataset import CalibrationSample
from florence_edge_calibration.quantization.recipe import Recipe

from .gate import Passage, StepSpeed, on_cpu, saves_time

_BATCH = 16
_MAX_NEW_TOKENS = 100


@dataclass(frozen=True, slots=True)
class TaskFidelity:
    """A task's headline figure against truth, answered freely by the float and the new bundle."""

    measure: str
    floats: float
    quantized: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What making the bundle took, on the machine that made it.

    `seconds` are by stage; `peak_bytes` is the largest memory of the process, None where the
    system does not say.
    """

    seconds: Mapping[str, float]
    peak_bytes: int | None

    def as_json(self) -> dict[str, Any]:
        """What fidelity.json holds of it."""
        seconds = {name: round(value, 1) for name, value in self.seconds.items()}
        peak = None if self.peak_bytes is None else self.peak_bytes // 1_000_000
        return {"seconds": seconds, "peak_megabytes": peak}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FidelityReport:
    """A quantized bundle beside its float one; `passage` is None where the gate was left out.

    `steps` is how many times as fast a step of the decoder is as int8's on the CPU, by search; None
    where that was not measured.
    """

    recipe: Recipe
    table: CalibrationTable
    pictures: int
    budget: float | None
    passage: Passage | None
    tasks: Mapping[str, TaskFidelity]
    effort: Effort
    steps: Mapping[str, StepSpeed] | None = None

    def as_json(self) -> dict[str, Any]:
        """What fidelity.json holds under `against_float`."""
        facts = {
            "precision": self.recipe.precision,
            "target": self.recipe.target,
            "method": self.recipe.method,
            "kept": dict(self.recipe.kept),
            **self._calibration(),
            "took": self.effort.as_json(),
            **self._float32(),
            **self._steps_as_json(),
        }
        if self.passage is None:
            return {**facts, "gate": "left out"}
        trial, before = self.passage.trial, self.passage.before
        gate: dict[str, Any] = {"budget": self.budget, "pictures": self.pictures}
        gate |= {"megabytes": trial.cost.megabytes, "encoding_speed": trial.cost.speed}
        if before is not None:
            task, loss = before.judged.worst
            gate["lifted"] = {
                "blocks": list(self.passage.lifted),
                "because": {"task": task, "loss": round(loss, 5)},
                "megabytes_without": before.cost.megabytes,
                "encoding_speed_without": before.cost.speed,
            }
        return {**facts, "gate": gate, "tasks": self._tasks_as_json(self.passage)}

    def _calibration(self) -> dict[str, Any]:
        """What activations were measured with, where they are rounded at all."""
        if not self.recipe.rounds_activations:
            return {}
        return {"calibration": {"pictures": self.table.pictures, "prompts": self.table.prompts}}

    def _float32(self) -> dict[str, Any]:
        """What stays float32 because float16 overflows there, if anything does."""
        recipe = self.recipe
        if not recipe.lifted and not recipe.exchanged:
            return {}
        layers = Lifted(operators=recipe.lifted).layers()
        return {"float32": {"overflowing": layers, "features_and_caches": recipe.exchanged}}

    def _steps_as_json(self) -> dict[str, Any]:
        """The steps of the decoder beside int8's, where they were measured."""
        if self.steps is None:
            return {}
        speeds = {
            search: {"median": each.ratio, "quartiles": list(each.quartiles)}
            for search, each in self.steps.items()
        }
        return {"step_speed_against_int8": speeds}

    def _tasks_as_json(self, passage: Passage) -> dict[str, Any]:
        rows: dict[str, Any] = {}
        for name, agreement in passage.trial.judged.agreements.items():
            rows[name] = agreement.as_json()
            task = self.tasks.get(name)
            if task is not None:
                rows[name]["against_truth"] = {
                    "measure": task.measure,
                    "float": round(task.floats, 4),
                    self.recipe.precision: round(task.quantized, 4),
                }
        return rows

    def as_markdown(self, model: str) -> str:
        """The same as a page to read."""
        lines = [f"# What {self.recipe.precision} costs: {model}", "", *self._circumstances(), ""]
        if self.passage is not None:
            lines += self._table(self.passage)
        return "\n".join(lines) + "\n"

    def _circumstances(self) -> list[str]:
        precision = self.recipe.precision
        lines = [f"Target `{self.recipe.target}`, {self._how()}"]
        if self.passage is None:
            left_out = (
                f"The gate was left out: what {precision} costs in accuracy was not measured."
            )
            return [*lines, left_out, *self._steps_in_words()]
        cost = self.passage.trial.cost
        lines += [
            f"Judged by {self.pictures} other pictures along the float32 model's answers; budget "
            f"{self.budget:g}. {cost.megabytes:g} MB; encodes {cost.speed:g} times as fast as "
            "float32 on the machine that exported it.",
            *self._steps_in_words(),
        ]
        if self.passage.before is not None:
            before, (task, loss) = self.passage.before, self.passage.before.judged.worst
            lines += [
                "",
                f"{self._finer()}, because {task} lost {loss:.4f} without: "
                + ", ".join(f"`{block}`" for block in self.passage.lifted)
                + f". Without, it would be {before.cost.megabytes:g} MB and {before.cost.speed:g} "
                "times as fast.",
            ]
        return lines

    def _finer(self) -> str:
        """What the blocks that cost too much returned to."""
        return "In int8 or float" if self.recipe.precision == "int4" else "In float"

    def _how(self) -> str:
        """How weights and activations were rounded."""
        limits = (
            f"limits by {self.recipe.method}, calibrated on {self.table.pictures} pictures with "
            f"{self.table.prompts} prompts."
        )
        if self.recipe.precision == "int4":
            where = "weights of 4 bits in the text models and the embedding; the rest is int8"
            return f"{where}, {limits}"
        if self.recipe.rounds_activations:
            return limits
        return "int8 weights in the decoder and the embedding; activations are not rounded."

    def _steps_in_words(self) -> list[str]:
        """Whether int4 is faster than int8 on the CPU that exported it, where that was measured."""
        if self.steps is None:
            return []
        said = ", ".join(f"{search} {each}" for search, each in self.steps.items())
        judged = (
            "so it is faster"
            if saves_time(self.steps)
            else "so on such a CPU it saves memory and disk, and time not for certain"
        )
        return [
            "A step of the decoder beside int8's there, as many times as fast (median, and the "
            f"quartiles of steps by turns): {said}; {judged}."
        ]

    def _undecided(self, passage: Passage) -> list[str]:
        """Which tasks have rows that say nothing."""
        tasks = ", ".join(f"`{task}`" for task in passage.trial.judged.undecided)
        if not tasks:
            return []
        return [
            f"The float model is decided nowhere in its answers to {tasks}: nothing was judged by "
            "them.",
            "",
        ]

    def _table(self, passage: Passage) -> list[str]:
        rows = [
            *self._undecided(passage),
            "*Loss*: share of positions with another best token, where the float model is decided "
            "(its best two tokens at least 0.1 apart in log-probability). *Drop*: mean loss of "
            "log-probability of the float model's token.",
            "",
            "| task | positions | loss | same best token | drop | measure | float32 | "
            f"{self.recipe.precision} |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for name, agreement in passage.trial.judged.agreements.items():
            found, task = agreement.as_json(), self.tasks.get(name)
            truth = f"{task.measure} | {task.floats:.3f} | {task.quantized:.3f}" if task else "| |"
            rows.append(
                f"| `{name}` | {found['positions']} | {found['loss']:.4f} | "
                f"{found['top1_agreement']:.4f} | {found['mean_log_prob_drop']:+.4f} | {truth} |"
            )
        return rows


def compare_tasks(
    floats: Path, quantized: Path, samples: Sequence[CalibrationSample]
) -> dict[str, TaskFidelity]:
    """Free-running answers of both bundles against truth, where the samples have it."""
    if not samples or samples[0].truths is None:
        return {}
    before, after = (_verdicts(folder, samples) for folder in (floats, quantized))
    return {
        name: TaskFidelity(verdict.headline, verdict.value, after[name].value)
        for name, verdict in before.items()
    }


def _verdicts(folder: Path, samples: Sequence[CalibrationSample]) -> dict[str, Verdict]:
    options = GenerationOptions(max_new_tokens=_MAX_NEW_TOKENS)
    answers: dict[str, list[FreeAnswer]] = {}
    with on_cpu(Bundle.load(folder)) as model:
        for start in range(0, len(samples), _BATCH):
            batch = samples[start : start + _BATCH]
            views = model.encode([sample.read() for sample in batch])
            for place, prompt in enumerate(batch[0].prompts):
                prompts = [sample.prompts[place] for sample in batch]
                results = model.answer(views, prompts, options)
                answers.setdefault(prompt.task.name, []).extend(
                    FreeAnswer(
                        text=result.raw_text, truth=sample.truths[place] if sample.truths else ""
                    )
                    for result, sample in zip(results, batch, strict=True)
                )
    return {task: judge(task, given) for task, given in answers.items()}
