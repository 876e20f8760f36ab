"""What can be known before anything is measured: whether some bundle could answer at all."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from florence_edge.bundle import Bundle
from florence_edge.errors import FlorenceEdgeError, RequestError
from florence_edge.image import load_image
from florence_edge.options import resolve

from ..systems.workload import Workload


def check_some_can_answer(
    folders: Sequence[Path], workloads: Sequence[Workload], failed: Mapping[str, str]
) -> None:
    """Refuse a measurement that would have nothing but failures.

    One bundle that can be opened and asked one of the workloads is enough: what fails beside it
    becomes a row.

    Args:
        folders: of the bundles, at least one.
        workloads: at least one, all about one picture.
        failed: bundles that could not be made, by their folder, and why.

    Raises:
        RequestError: no bundle can answer, or the picture cannot be read.
    """
    load_image(workloads[0].image)
    problems = []
    for folder in folders:
        problem = failed.get(str(folder)) or _problem(folder, workloads)
        if problem is None:
            return
        problems.append(problem)
    raise RequestError(f"No bundle was measured. {problems[0]}")


def _problem(folder: Path, workloads: Sequence[Workload]) -> str | None:
    """Why a bundle can be asked none of the workloads; None if it can be asked one."""
    try:
        bundle = Bundle.load(folder)
    except FlorenceEdgeError as error:
        return str(error)
    problems = []
    for workload in workloads:
        try:
            resolve(workload.options, bundle.generation, bundle.size)
        except FlorenceEdgeError as error:
            problems.append(str(error))
        else:
            return None
    return problems[0]
