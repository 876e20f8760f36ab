"""Full-size models with random weights, so that anyone can measure speed without a download."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from florence_edge.bundle import Bundle
from florence_edge.errors import FlorenceEdgeError, MissingPackageError, RequestError
from florence_edge.extras import pip_install
from florence_edge.files import folder_beside, replace_folder
from florence_edge_calibration.quantization.recipe import Target, is_integer

from ..systems.workload import SCENE_SEED, scene_picture
from .precisions import export_problem, folder_name

logger = logging.getLogger(__name__)

_SAMPLES = 8
_RANDOM = "random "  # what the name of every such model begins with


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomModel:
    """Which random model to make, and in which precisions; `target` is for int8 and int4."""

    architecture: str
    precisions: Sequence[str] = ("fp32",)
    target: Target = "cpu"
    seed: int = 0
    image_size: int = 768

    @property
    def name(self) -> str:
        """What it is called in every table: it is not Florence-2 by Microsoft."""
        return f"{_RANDOM}{self.architecture} (seed {self.seed}, {self.image_size} px)"


def make_checkpoint(model: RandomModel, work: Path) -> Path:
    """The checkpoint's folder in `work`; equal models are made once.

    Raises:
        MissingPackageError: the export extra is not installed.
    """
    try:
        from florence_edge_export.synthetic import write_checkpoint
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"--architecture needs {error.name}, which is not installed. Install "
            f"it with: {pip_install('export')}"
        ) from error
    folder = work / f"checkpoint-{model.architecture}-{model.seed}-{model.image_size}"
    if not folder.exists():
        logger.info("Making %s", model.name)
        with folder_beside(folder) as partial:
            write_checkpoint(
                partial, model.architecture, seed=model.seed, image_size=model.image_size
            )
            replace_folder(partial, folder)
    return folder


def check_work(model: RandomModel, work: Path) -> None:
    """Refuse a folder in which a bundle of real weights stands where a random one would go.

    Raises:
        RequestError: naming it.
    """
    for precision in model.precisions:
        folder = work / folder_name(precision, model.target)
        if folder.exists() and not _is_random(folder):
            raise RequestError(
                f"{folder} is not a bundle of random weights, and --work would replace it. Choose "
                "another --work."
            )


def _is_random(folder: Path) -> bool:
    try:
        return Bundle.load(folder).model.startswith(_RANDOM)
    except FlorenceEdgeError:
        return False


def export_bundles(model: RandomModel, checkpoint: Path, work: Path) -> Iterator[tuple[Path, str]]:
    """Export every precision, always anew: the graphs are what is being measured.

    Int8 and int4 are calibrated on a few generated scenes and not gated, since random weights say
    nothing that could be right or wrong: they are for speed and memory alone.

    Yields:
        The bundle's folder, and '' or why it could not be exported.
    """
    from florence_edge_export.export import ExportOptions
    from florence_edge_export.quantization.export import QuantizationOptions

    pictures = work / "calibration"
    for precision in model.precisions:
        quantization = QuantizationOptions()
        if is_integer(precision):
            for seed in range(_SAMPLES):
                scene_picture(pictures, SCENE_SEED + 1 + seed)
            quantization = QuantizationOptions(
                target=model.target, images=pictures, samples=_SAMPLES, budget=None
            )
        options = ExportOptions(precision=precision, overwrite=True, quantization=quantization)
        folder = work / folder_name(precision, model.target)
        yield folder, export_problem(model.name, checkpoint, folder, options)
