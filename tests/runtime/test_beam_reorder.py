from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from florence_edge.backends.beam_reorder import BeamReorder

Parents = npt.NDArray[np.int64]


@st.composite
def generations(draw: st.DrawFn) -> Parents:
    """Parents [steps, images, beams]; those of the first step are alike, as `generate` has them."""
    images, beams = draw(st.integers(1, 3)), draw(st.integers(1, 8))
    steps = draw(st.integers(1, 12))
    row = st.lists(st.integers(0, beams - 1), min_size=beams, max_size=beams)
    parents = draw(
        st.lists(st.lists(row, min_size=images, max_size=images), min_size=steps, max_size=steps)
    )
    return np.array([np.zeros((images, beams)), *parents], dtype=np.int64)


Watch = Callable[[int, tuple[Parents, Parents, int] | None, Parents], None]


def replay(generation: Parents, watch: Watch) -> None:
    """Keep one cache by following the reorder and one by gathering all of every parent's row.

    A step writes its number and row, so that two pasts are equal only where they are one past.
    """
    steps, images, beams = generation.shape
    reorder = BeamReorder(images, beams)
    followed = np.zeros((images * beams, steps), dtype=np.int64)
    gathered = followed.copy()
    for position, parents in enumerate(generation):
        before = followed.copy()
        copies = reorder.follow(parents, position)
        if copies is not None:
            rows, sources, first = copies
            followed[rows, first:position] = followed[sources, first:position]
        gathered = gathered[(parents + np.arange(images)[:, None] * beams).ravel()]
        np.testing.assert_array_equal(followed[:, :position], gathered[:, :position])
        watch(position, copies, before)
        followed[:, position] = gathered[:, position] = (
            1 + position * 1000 + np.arange(images * beams)
        )


@given(generations())
def test_following_the_beam_reorder_equals_gathering_every_row(generation: Parents) -> None:
    replay(generation, lambda position, copies, before: None)


@given(generations())
def test_only_rows_that_differ_are_copied_and_only_from_where_the_first_differs(
    generation: Parents,
) -> None:
    def watch(position: int, copies: tuple[Parents, Parents, int] | None, before: Parents) -> None:
        if copies is None:
            return
        rows, sources, first = copies
        differs = before[rows, :position] != before[sources, :position]
        assert differs.any(axis=1).all()
        assert first == differs.argmax(axis=1).min()

    replay(generation, watch)


def test_nothing_moves_while_beams_go_on_by_themselves() -> None:
    reorder = BeamReorder(images=2, beams=3)
    for position in range(5):
        assert reorder.follow(np.tile(np.arange(3), (2, 1)), position) is None


def test_nothing_moves_for_a_parent_with_the_same_past() -> None:
    reorder = BeamReorder(images=1, beams=3)
    assert reorder.follow(np.array([[0, 0, 0]]), 0) is None  # all empty
    assert reorder.follow(np.array([[0, 0, 0]]), 1) is not None  # rows 1 and 2 have own tokens
    assert reorder.follow(np.array([[0, 1, 2]]), 1) is None
