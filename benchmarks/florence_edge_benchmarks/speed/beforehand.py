"""What can be known before anything is measured: whether some bundle could answer at all."""

from collections.abc import Iterator, Mapping, Sequence
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
        found = list(_problems(folder, workloads, failed))
        if len(found) < len(workloads):
            return
        problems.append(found[0])
    raise RequestError(f"No bundle was measured. {problems[0]}")


def _problems(
    folder: Path, workloads: Sequence[Workload], failed: Mapping[str, str]
) -> Iterator[str]:
    """Why the bundle cannot be asked, for each workload that it cannot be asked."""
    for workload in workloads:
        if str(folder) in failed:
            yield failed[str(folder)]
            continue
        try:
            bundle = Bundle.load(folder)
            resolve(workload.options, bundle.generation, bundle.size)
        except FlorenceEdgeError as error:
            yield str(error)
