"""Bundles of one checkpoint in several precisions, in folders beside each other."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from florence_edge.bundle import PRECISIONS, Bundle
from florence_edge.errors import FlorenceEdgeError, MissingPackageError, RequestError
from florence_edge.extras import pip_install
from florence_edge_calibration.quantization.recipe import Target

if TYPE_CHECKING:
    from florence_edge_export.export import ExportOptions

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionPlan:
    """Which precisions to make of a checkpoint.

    `targets` is what integers are made for, by precision, "cpu" where it names none;
    `calibration_images` and `samples` None are what florence-export takes by default.
    """

    model: str
    revision: str | None = None
    precisions: Sequence[str] = PRECISIONS
    targets: Mapping[str, Target] = field(default_factory=dict)
    calibration_images: Path | None = None
    samples: int | None = None

    def target(self, precision: str) -> Target:
        """What a precision is made for; the floats are for all engines."""
        return self.targets.get(precision, "cpu")


def folder_name(precision: str, target: str) -> str:
    """What a bundle's folder is called: `fp16`, `int8-cpu`."""
    return precision if precision.startswith("fp") else f"{precision}-{target}"


def export_precisions(plan: PrecisionPlan, work: Path) -> Iterator[tuple[Path, str]]:
    """Export every precision into `work`; what an earlier call left there is taken as it is.

    Yields:
        The bundle's folder, and '' or why it could not be exported.

    Raises:
        BundleError: there is no such checkpoint, or it cannot be had.
        RequestError: something else stands where a bundle would go.
        MissingPackageError: the export extra is not installed.
    """
    try:
        from florence_edge_export.checkpoint.loader import find_checkpoint
        from florence_edge_export.export import ExportOptions
        from florence_edge_export.quantization.export import QuantizationOptions
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"Exporting needs {error.name}, which is not installed. Install it with: "
            f"{pip_install('export')}"
        ) from error
    checkpoint = find_checkpoint(plan.model, plan.revision)
    work.mkdir(parents=True, exist_ok=True)
    folders = [(each, work / folder_name(each, plan.target(each))) for each in plan.precisions]
    made = {folder for precision, folder in folders if _is_made(checkpoint, precision, folder)}
    quantization = QuantizationOptions(images=plan.calibration_images)
    if plan.samples is not None:
        quantization = replace(quantization, samples=plan.samples)
    for precision, folder in folders:
        if folder in made:
            logger.info("%s is taken as it is", folder)
            yield folder, ""
            continue
        options = ExportOptions(precision=precision)
        if not precision.startswith("fp"):
            of_target = replace(quantization, target=plan.target(precision))
            options = replace(options, quantization=of_target)
        yield folder, export_problem(plan.model, checkpoint, folder, options)


def export_problem(model: str, checkpoint: Path, folder: Path, options: "ExportOptions") -> str:
    """Export a bundle; '' or why there is none."""
    from florence_edge_export.export import export

    logger.info("Exporting %s", folder.name)
    try:
        export(model, checkpoint, folder, options)
    except FlorenceEdgeError as error:
        logger.warning("%s: %s", folder.name, error)
        return str(error)
    return ""


def _is_made(checkpoint: Path, precision: str, folder: Path) -> bool:
    """Whether the folder is a bundle of this checkpoint and precision.

    Raises:
        RequestError: there is something, but not that.
    """
    if not folder.exists():
        return False
    from florence_edge_export.checkpoint.loader import read_checkpoint

    try:
        bundle = Bundle.load(folder)
        same = bundle.checkpoint == read_checkpoint(checkpoint).sha256()
    except FlorenceEdgeError as error:
        raise RequestError(f"{error} Remove it, or choose another --work.") from error
    if not same or bundle.precision != precision:
        raise RequestError(
            f"{folder} is the bundle of another checkpoint or precision ({bundle.model}, "
            f"{bundle.precision}). Remove it, or choose another --work."
        )
    return True
