"""Regions as `Detections` of the package supervision, which is loaded when they are asked for."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from ..errors import MissingPackageError
from ..extras import pip_install
from ..regions import Region, Ring
from .formats import ClassIds, with_areas

if TYPE_CHECKING:
    import supervision


def detections_from_regions(
    regions: Sequence[Region], image_size: tuple[int, int], class_ids: ClassIds
) -> "supervision.Detections":
    """What supervision's own reader of Florence-2 gives, with confidences and class ids added.

    Regions whose label is none of the classes given are left out.

    Raises:
        MissingPackageError: supervision is not installed.
    """
    try:
        import supervision as sv
        from supervision.config import CLASS_NAME_DATA_FIELD, ORIENTED_BOX_COORDINATES
    except ImportError as error:
        raise MissingPackageError(
            "Detections are made by the package supervision, which is not installed. "
            f"Install it with: {pip_install('supervision')}"
        ) from error

    regions = [replace(region, rings=rings) for region in regions if (rings := with_areas(region))]
    numbered = [(region, class_ids.number(region.label)) for region in regions]
    regions = [region for region, number in numbered if number is not None]
    labels = [region.label for region in regions]
    data: dict[str, npt.NDArray[np.generic]] = {CLASS_NAME_DATA_FIELD: np.array(labels, dtype=str)}
    shapes = {region.shape for region in regions}  # one, as an answer mixes none
    if "quad" in shapes:
        corners = np.array([region.rings[0] for region in regions], dtype=np.float32)
        data[ORIENTED_BOX_COORDINATES] = corners.reshape(-1, 4, 2)
    return sv.Detections(
        xyxy=np.array([region.box for region in regions], dtype=np.float32).reshape(-1, 4),
        mask=_masks(regions, image_size) if "polygon" in shapes else None,
        confidence=np.array([region.score for region in regions], dtype=np.float32),
        class_id=np.array([number for _, number in numbered if number is not None], dtype=int),
        data=data,
    )


def _masks(regions: Sequence[Region], image_size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    return np.stack([_mask(region.rings, image_size) for region in regions])


def _mask(rings: Sequence[Ring], image_size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    mask = Image.new("1", image_size)
    for ring in rings:
        ImageDraw.Draw(mask).polygon([int(number) for number in ring], fill=1)
    return np.array(mask)
