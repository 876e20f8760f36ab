import json
import shutil

import pytest

from florence_edge_benchmarks.accuracy.captions import caption_figures, tokenized

from ..helpers.assets import Asset


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("A man's dog isn't here; it can't be!", "a man 's dog is n't here it ca n't be"),
        ("Two dogs -- one black, one white.", "two dogs one black one white"),
        ("A (small) t-shirt & a $5 bill", "a -lrb- small -rrb- t-shirt & a $ 5 bill"),
        ("The U.S. flag at 10:30 a.m.", "the u.s. flag at 10:30 a.m."),
        ('It says "STOP" for 3.5 km.', "it says stop for 3.5 km"),
        ("black/white cannot", "black/white can not"),
        ("   ", ""),
    ],
)
def test_captions_are_parted_as_stanfords_tokenizer_parts_them(caption: str, tokens: str) -> None:
    """Recorded from pycocoevalcap's PTBTokenizer (Stanford CoreNLP 3.4.1)."""
    assert tokenized(caption) == tokens


@pytest.mark.skipif(shutil.which("java") is None, reason="Stanford's tokenizer needs Java")
def test_cocos_captions_are_parted_as_stanfords_tokenizer_does(asset: Asset) -> None:
    tokenizer = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer")
    annotations = asset("photos/coco_cc/annotations.json")
    captions = [row["caption"] for row in json.loads(annotations.read_text())["captions"]]
    asked = {place: [{"caption": caption}] for place, caption in enumerate(captions)}
    parted = tokenizer.PTBTokenizer().tokenize(asked)
    assert len(captions) > 100
    assert [tokenized(caption) for caption in captions] == [
        parted[place][0] for place in range(len(captions))
    ]


def test_the_caption_itself_scores_best_and_another_worst() -> None:
    pytest.importorskip("pycocoevalcap")
    references = {
        1: ["A dog runs over the green grass.", "A dog running on grass"],
        2: ["Two men sit on a bench."],
        3: ["A red bus in the rain."],
    }
    right = {
        1: "a dog runs over the green grass",
        2: "Two men sit on a bench",
        3: "A red bus in the rain",
    }
    wrong = {1: right[2], 2: right[3], 3: right[1]}
    best, worst = caption_figures(references, right), caption_figures(references, wrong)
    assert list(best) == ["CIDEr", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"]
    assert best["BLEU-4"] == pytest.approx(1.0)
    assert best["CIDEr"] > 5
    assert worst["CIDEr"] < 0.5


def test_scorers_that_are_missing_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from florence_edge.errors import MissingPackageError

    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    monkeypatch.setitem(sys.modules, "pycocoevalcap.cider.cider", None)
    with pytest.raises(MissingPackageError, match=r"pip install .*\[bench\]"):
        caption_figures({1: ["a"]}, {1: "a"})
