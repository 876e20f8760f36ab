"""What a model's slips leave in its answers, and how to take it out.

A location too many or too few shifts what follows: a token gets into a label (`<loc_53>STOP`,
`loc_53>`), or a box has no area. The originals keep such regions, and so does `read_answer`.
"""

import re
from collections.abc import Iterable
from dataclasses import replace

from ..regions import Region, has_area

# Of a location the originals may take the bracket for the end of something else.
_STRAY_TOKEN = re.compile(r"<?loc_\d+>|</?(?:s|pad|sep|poly)>")


def cleaned(regions: Iterable[Region]) -> tuple[Region, ...]:
    """The regions that have an area, their labels without tokens.

    A label that is nothing but tokens loses its region: its box is made of the wrong locations.
    """
    return tuple(each for region in regions if (each := _cleaned(region)) is not None)


def _cleaned(region: Region) -> Region | None:
    label, tokens = _STRAY_TOKEN.subn(" ", region.label)
    label = " ".join(label.split()) if tokens else region.label
    rings = tuple(ring for ring in region.rings if has_area(ring, region.shape))
    if not rings or (tokens and not label):
        return None
    return replace(region, label=label, rings=rings)
