"""The table of what systems cost before and beside their answers."""

from collections.abc import Sequence

from ...results.speed import SpeedResult, Start, SystemRow
from ...systems.transformers_variants import OUR_READER
from .. import units
from .table import Table


def start_table(result: SpeedResult) -> Table:
    """Import, loading, memory and size of the systems that started."""
    started = [(row, row.start) for row in result.systems if row.start is not None]
    on_gpu = any(start.device_bytes is not None for _, start in started)
    rows = [
        (row.system.label, row.precision, *_times(start), *_sizes(start, on_gpu=on_gpu))
        for row, start in started
    ]
    return Table(
        title="Start, memory and size",
        heading=(
            *("system", "precision", "import", "load", "cold start"),
            *("loaded", "peak answering", "peak", *(["on the GPU"] if on_gpu else [])),
            "model on disk",
        ),
        rows=tuple(rows),
        kinds="nn" + "f" * (7 + on_gpu),
        note=_note([row for row, _ in started], on_gpu=on_gpu),
    )


def _times(start: Start) -> tuple[str, ...]:
    seconds = (start.import_seconds, start.load_seconds, start.first_answer_seconds)
    return tuple(map(units.duration, seconds))


def _sizes(start: Start, *, on_gpu: bool) -> tuple[str, ...]:
    counts = [start.loaded_bytes, start.answering_bytes, start.peak_bytes]
    counts += [start.device_bytes] if on_gpu else []
    return tuple(map(units.size, [*counts, start.disk_bytes]))


def _note(rows: Sequence[SystemRow], *, on_gpu: bool) -> str:
    note = (
        "A process of its own each, apart from the timing. Cold start is process to first answer, "
        "with files perhaps in the page cache. Memory is resident memory, mapped files included; "
        "the peak includes loading"
    )
    readers = {
        row.start.reader or OUR_READER
        for row in rows
        if row.start is not None and row.system.kind == "transformers"
    }
    note += "".join(f", for transformers by {reader}" for reader in sorted(readers)) + "."
    if on_gpu:
        note += " On the GPU is what is held there after the answers, beyond the CUDA context."
    return note
