"""Captions against people's: CIDEr and BLEU by pycocoevalcap's scorers, without Java.

pycocoevalcap's own tokenizer is Stanford's, a Java program. The one here follows its rules for
captions: lower case, contractions split (`isn't` -> `is n't`), punctuation dropped.
"""

import io
import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from importlib import import_module
from typing import Any

from florence_edge.errors import MissingPackageError
from florence_edge.extras import pip_install

TOKENIZER_NOTE = (
    "CIDEr and BLEU are pycocoevalcap's, over tokens of florence-edge's own tokenizer, which "
    "follows Stanford's PTB rules without Java; published figures are 100 times as large."
)

_CONTRACTIONS = re.compile(r"(?<=\w)(n't|'(?:s|re|ve|ll|d|m))\b")
_TWO_WORDS = re.compile(r"\b(can)(not)\b|\b(gon|wan)(na)\b|\b(got)(ta)\b")
_BRACKETS = {"(": " -lrb- ", ")": " -rrb- ", "[": " -lsb- ", "]": " -rsb- "}
_TOKEN = re.compile(
    r"-[lr][rs]b-"  # a bracket, as the Penn Treebank writes it
    r"|(?:[a-z]\.){2,}"  # u.s., a.m.
    r"|n't|'(?:s|re|ve|ll|d|m)\b"
    r"|\d+(?:[.,:/]\d+)+"  # 3.5, 10:30
    r"|(?:mr|mrs|ms|dr|st|ave|jr|sr|mt|vs|etc)\."
    r"|o'clock\b"
    r"|\w+(?:[-./]\w+)*"  # words with hyphens and slashes stay whole
    r"|[^\w\s]"
)
# What pycocoevalcap drops after tokenizing; as there, brackets stay, since it lowers them before.
_PUNCTUATION = frozenset("'`.?!,:-;\"“”‘’…–")


def caption_figures(
    references: Mapping[int, Sequence[str]], candidates: Mapping[int, str]
) -> dict[str, float]:
    """CIDEr, and BLEU of 1 to 4 words.

    Args:
        references: people's captions by picture, at least one each, and each with a word.
        candidates: one caption by picture, for the same pictures.

    Raises:
        MissingPackageError: pycocoevalcap is not installed.
    """
    true = {key: [tokenized(text) for text in texts] for key, texts in references.items()}
    found = {key: [tokenized(candidates[key])] for key in references}
    with redirect_stdout(io.StringIO()):
        cider, _ = _scorer("cider.cider", "Cider").compute_score(true, found)
        bleus, _ = _scorer("bleu.bleu", "Bleu").compute_score(true, found, verbose=0)
    return {
        "CIDEr": float(cider),
        **{f"BLEU-{size}": float(bleu) for size, bleu in enumerate(bleus, start=1)},
    }


def check_installed() -> None:
    """Find out before the answers what is needed after them.

    Raises:
        MissingPackageError: pycocoevalcap is not installed.
    """
    _scorer("cider.cider", "Cider")
    _scorer("bleu.bleu", "Bleu")


def tokenized(caption: str) -> str:
    """The words of a caption, parted by blanks."""
    text = caption.lower().replace("’", "'")
    for bracket, name in _BRACKETS.items():
        text = text.replace(bracket, name)
    text = _TWO_WORDS.sub(lambda found: " ".join(filter(None, found.groups())), text)
    text = _CONTRACTIONS.sub(r" \1", text)
    return " ".join(token for token in _TOKEN.findall(text) if token not in _PUNCTUATION)


def _scorer(module: str, name: str) -> Any:
    try:
        return getattr(import_module(f"pycocoevalcap.{module}"), name)()
    except ImportError as error:
        raise MissingPackageError(
            "CIDEr and BLEU need pycocoevalcap, which is not installed. Install "
            f"it with: {pip_install('bench')}"
        ) from error
