"""Which cache rows move when beams are reordered: only where the pasts of two beams differ."""

import numpy as np

from ..search import Ints


class BeamReorder:
    """For each pair of rows of an image, the first position at which their pasts differ.

    Rows hold a past of `position` tokens. Rows that continue the same parent share all of it; rows
    that continue different parents differ from where those did.
    """

    def __init__(self, images: int, beams: int) -> None:
        self._differ_from = np.zeros((images, beams, beams), dtype=np.int64)
        self._identity = np.arange(beams)
        self._offsets = np.arange(images)[:, None] * beams

    def follow(self, parents: Ints, position: int) -> tuple[Ints, Ints, int] | None:
        """Record that row n now continues `parents[b, n]`, with `position` tokens behind it.

        Returns:
            Rows to overwrite, the rows they copy (indices into images * beams) and the first
            position that differs; None if nothing has to move.
        """
        if parents.shape[1] == 1:  # greedy: there is one row
            return None
        image = np.arange(len(parents))[:, None]
        firsts = self._differ_from[image, self._identity, parents]
        moves = firsts < position
        moves &= parents != self._identity
        self._differ_from = self._differ_from[
            image[:, :, None], parents[:, :, None], parents[:, None, :]
        ]
        same = parents[:, :, None] == parents[:, None, :]
        self._differ_from[same] = position
        if not moves.any():
            return None
        rows = (self._offsets + self._identity)[moves]
        sources = (self._offsets + parents)[moves]
        return rows, sources, int(firsts[moves].min())
