import numpy as np

from florence_edge.search import Scores
from florence_edge_benchmarks.systems.endless import EndlessDecoder

END = 2


class Fixed:
    """A decoder whose scores are always the same."""

    def __init__(self, log_probs: np.ndarray) -> None:
        self.log_probs = log_probs.astype(np.float32)

    def step(self, tokens: np.ndarray, parents: np.ndarray) -> list[Scores]:
        ids = np.argsort(-self.log_probs, axis=1, kind="stable")[:, :4]
        return [
            Scores(np.take_along_axis(self.log_probs, ids, axis=1), ids, lambda: self.log_probs)
        ]


def endless_scores(*rows: list[float]) -> Scores:
    nothing = np.zeros((1, len(rows)), dtype=np.int64)
    (scores,) = EndlessDecoder(Fixed(np.array(rows)), END).step(nothing, nothing)
    return scores


def test_the_end_token_is_never_among_the_best() -> None:
    scores = endless_scores([-3, -2, -1, -4, -5], [-1, -2, -9, -3, -4])
    assert scores.top_ids.tolist() == [[1, 0, 3], [0, 1, 3]]
    assert scores.top_log_probs.tolist() == [[-2, -3, -4], [-1, -2, -3]]


def test_rows_without_the_end_token_are_as_long_as_those_with_it() -> None:
    scores = endless_scores([-1, -2, -9, -3, -4])
    assert scores.top_ids.tolist() == [[0, 1, 3]]
    assert scores.full()[0, END] == -np.inf


def test_the_end_token_is_impossible_in_the_whole_vocabulary_too() -> None:
    inner = np.array([[-3.0, -2, -1, -4, -5]])
    scores = endless_scores(inner[0].tolist())
    assert scores.full()[0].tolist() == [-3, -2, -np.inf, -4, -5]
    assert scores.full()[0, 0] == inner[0, 0]
