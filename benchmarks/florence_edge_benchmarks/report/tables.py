"""Tables of a report before they are HTML or Markdown: accuracy, energy and the machine.

Those of speed are in `speed_tables.py`; what both need of accuracy beside speed is here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from florence_edge_jetson.power.energy import Energy

from ..results import AccuracyResult, EnergyResult, RunRow, SystemRow
from ..systems.workload import name_beams
from . import units


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A titled table.

    `kinds` has a letter a column: n for a name, which is not repeated below itself, f for a figure,
    t for a text of any length.
    """

    title: str
    heading: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    kinds: str
    note: str = ""
    remark: str = ""
    """Stands behind the note, and in a README, where there is no room for notes."""

    @property
    def notes(self) -> str:
        """All that is written under it."""
        return f"{self.note} {self.remark}".strip()

    def without_repetitions(self) -> list[tuple[str, ...]]:
        """The rows; a first name that stands above is left out."""
        return [
            ("", *row[1:]) if again else row
            for row, again in zip(self.rows, self.repetitions(), strict=True)
        ]

    def repetitions(self) -> list[bool]:
        """For every row, whether its first name stands above."""
        named = self.kinds[0] == "n"
        return [
            named and number > 0 and row[0] == self.rows[number - 1][0]
            for number, row in enumerate(self.rows)
        ]


def machine_line(machine: Mapping[str, Any]) -> str:
    """The machine in one line, as every figure names it."""
    parts = [
        machine.get("board"),
        machine["processor"],
        f"{machine['cores']} core{'s' if machine['cores'] != 1 else ''}",
        machine.get("gpu"),
        machine.get("power_mode"),
    ]
    # A machine that is not a board of NVIDIA's may be called by its processor.
    return ", ".join(dict.fromkeys(str(part) for part in parts if part))


def machine_table(machine: Mapping[str, Any], settings: Mapping[str, Any]) -> Table:
    """All that was recorded about machine and settings."""
    known = {**machine, "memory_bytes": units.size(machine.get("memory_bytes"))}
    facts = {name.replace("_bytes", "").replace("_", " "): value for name, value in known.items()}
    facts |= {f"--{name.replace('_', '-')}": value for name, value in settings.items()}
    rows = [(name, _as_text(value)) for name, value in facts.items()]
    return Table(
        title="Machine and settings",
        heading=("what", "value"),
        rows=tuple((name, value) for name, value in rows if value),
        kinds="nt",
    )


def _as_text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


_CLOCK = (("now", ""), ("limit", " allowed"), ("most", " possible"))


def energy_table(result: EnergyResult) -> Table:
    """Power at rest and under load, and joules an image and a token."""
    energy = result.energy
    image, token = energy.per_image, energy.per_token
    seconds = f"{energy.seconds:.0f} s"
    rows = [
        ("power at rest", f"{energy.idle_watts:.2f} W", ""),
        ("power under load", f"{energy.load_watts:.2f} W", seconds),
        ("an image", _joules(image, 3), f"{energy.images} images, {_net(image, 3)}"),
    ]
    if token is not None:
        further = f"{energy.tokens} tokens, {_net(token, 4)}"
        rows.append(("a token", _joules(token, 4), further))
    rows.append(("throttling", _throttling(energy), ""))
    return Table(
        title=f"Energy: {_workload(result)}",
        heading=("what", "figure", "further"),
        rows=tuple(rows),
        kinds="nft",
        note=(
            f"Measured at {' + '.join(energy.rails)} ({energy.covers}) by "
            f"{energy.source}, {energy.samples} samples"
            f"{', joules as the sensor counted them' if energy.method == 'counter' else ''}. "
            "Joules are gross, what the battery gives; above rest is what the model adds."
        ),
    )


def _workload(result: EnergyResult) -> str:
    """`int8 on tensorrt, OD, 3 beams`, from the settings."""
    settings = result.settings
    beams = settings.get("beams")
    parts = [
        f"{settings.get('precision', 'bundle')} on {settings.get('device', 'an engine')}",
        settings.get("task"),
        None if beams is None else name_beams(beams),
    ]
    return ", ".join(str(part) for part in parts if part)


def machine_of_energy(result: EnergyResult) -> Mapping[str, Any]:
    """The machine, with clock and heat in words."""
    clock = result.machine.get("gpu_clock") or {}
    celsius = result.machine.get("hottest_celsius") or ()
    machine: dict[str, Any] = {
        name: value
        for name, value in result.machine.items()
        if name not in ("gpu_clock", "hottest_celsius")
    }
    if clock:
        clocks = [f"{clock[name]} MHz{of}" for name, of in _CLOCK if clock.get(name) is not None]
        machine["gpu clock"] = ", ".join(clocks)
    known = [f"{degrees:.0f} °C" for degrees in celsius if degrees is not None]
    if known:
        machine["hottest, before and after"] = " and ".join(known)
    return machine


def _throttling(energy: Energy) -> str:
    """What slowed the machine down, and how often."""
    events = [f"{count} x {name}" for name, count in energy.throttling.items()]
    return ", ".join(events) or "none"


def _joules(pair: tuple[float, float], digits: int) -> str:
    return f"{pair[0]:.{digits}f} J"


def _net(pair: tuple[float, float], digits: int) -> str:
    return f"{pair[1]:.{digits}f} J above rest"


def accuracy_tables(results: Sequence[AccuracyResult]) -> list[Table]:
    """A table for each set of pictures, so that what stands in one can be compared."""
    same: dict[tuple[str, str], list[AccuracyResult]] = {}
    for result in results:
        same.setdefault((result.data_fingerprint, data_of(result)), []).append(result)
    return [_table(shown, some) for (_, shown), some in same.items()]


def _table(data: str, results: Sequence[AccuracyResult]) -> Table:
    """A row for every task of every bundle: its headline figure, and the others beside it."""
    tasks = dict.fromkeys(task for result in results for task in result.figures)
    rows = [
        (task, _who(result), *_figures(result, task))
        for task in tasks
        for result in results
        if task in result.figures
    ]
    return Table(
        title=f"Accuracy on {data}",
        heading=("task", "system", "measure", "figure", "further"),
        rows=tuple(rows),
        kinds="nnnft",
        note=" ".join(dict.fromkeys(note for result in results for note in result.notes)),
    )


def _who(result: AccuracyResult) -> str:
    """`int8 on cpu (base8), 3 beams`."""
    cut = result.max_new_tokens
    who = f"{result.precision} on {result.device} ({result.bundle}), {name_beams(result.beams)}"
    return who if cut is None else f"{who}, cut after {cut} tokens"


def _figures(result: AccuracyResult, task: str) -> tuple[str, str, str]:
    (headline, value), *others = result.figures[task].items()
    beside = ", ".join(f"{name} {units.figure(other)}" for name, other in others)
    return headline, units.figure(value), beside


def accuracy_beside(
    row: SystemRow, run: RunRow, accuracies: Sequence[AccuracyResult]
) -> list[AccuracyResult]:
    """The results that are about what answered in a run: its bundle, engine, beams and task.

    Bundles are the same if their content is, whatever they are called; other systems have no
    accuracy, and that of answers which were cut short is of other answers.
    """
    known = row.fingerprint if row.system.kind == "bundle" else ""
    same = (known, row.system.runs_on.name, run.workload.beams)
    return [
        each
        for each in accuracies
        if known
        and (each.fingerprint, each.device, each.beams) == same
        and run.workload.task in each.figures
        and each.max_new_tokens is None
    ]


def accuracy_cell(row: SystemRow, run: RunRow, accuracies: Sequence[AccuracyResult]) -> str:
    """Name and value of the headline figure, for a row of speed."""
    found = accuracy_beside(row, run, accuracies)
    if not found:
        return "-"
    measure, value = found[0].headline(run.workload.task)
    return f"{measure} {units.figure(value)}"


def accuracy_note(runs: Sequence[RunRow], accuracies: Sequence[AccuracyResult]) -> str:
    """How the accuracy in a table of speed was measured."""
    if not accuracies:
        return ""
    data = " and ".join(dict.fromkeys(map(data_of, accuracies)))
    pinned = any(run.workload.new_tokens is not None for run in runs)
    return (
        f" Accuracy is that of the same bundle, engine and number of beams on {data}; "
        f"{ending_of_answers(pinned=pinned)}."
    )


def ending_of_answers(*, pinned: bool) -> str:
    """Which answers accuracy is of, where those that were timed may be `pinned` to a length."""
    free = "answers end where the model ends them"
    return f"{free}, not after the number of tokens that was timed" if pinned else free


def data_of(result: AccuracyResult) -> str:
    """`40 pictures of coco_cc`."""
    return f"{result.images} picture{'s' if result.images != 1 else ''} of {result.data}"
