"""Text to token ids and back, with the piece of text that each token stands for."""

import codecs
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from .errors import BundleError
from .files import open_plain, read_json
from .options import GenerationConfig
from .search import Ints

OnText = Callable[[str], object]
"""Called with each new piece of an answer's text."""

_MOST_BYTES = 64 << 20  # of a tokenizer.json; Florence-2's has 4 MB
_MOST_IDS = 1 << 24  # as many as a model may have (`contract.ModelSize.check`)

_MARKERS = frozenset({"<s>", "</s>", "<pad>"})

# In the order in which Microsoft's processor adds them; `desciption` is Microsoft's spelling.
FLORENCE_TOKENS = (
    *("<od>", "</od>", "<ocr>", "</ocr>"),
    *(f"<loc_{i}>" for i in range(1000)),
    *("<cap>", "</cap>", "<ncap>", "</ncap>", "<dcap>", "</dcap>"),
    *("<grounding>", "</grounding>", "<seg>", "</seg>", "<sep>"),
    *("<region_cap>", "</region_cap>"),
    *("<region_to_desciption>", "</region_to_desciption>"),
    *("<proposal>", "</proposal>", "<poly>", "</poly>", "<and>"),
)


class Tokenizer:
    """Florence-2's byte-level BPE, read from tokenizer.json."""

    def __init__(self, path: Path, generation: GenerationConfig) -> None:
        self._tokenizer = read_tokenizer(path)
        # Saving a tokenizer after training on batches leaves their padding and truncation in it.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        # What stands around a prompt is the tokenizer's: a generation may end otherwise, too.
        begin, end = map(self._tokenizer.token_to_id, ("<s>", "</s>"))
        self._begin = generation.bos_token_id if begin is None else begin
        self._end = generation.eos_token_id[0] if end is None else end

    def prompt_ids(self, prompt: str) -> list[int]:
        """`<s>`, the prompt's tokens, `</s>`; what is not Unicode in the prompt becomes U+FFFD."""
        unicode = prompt.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        ids = self._tokenizer.encode(unicode, add_special_tokens=False).ids
        return [self._begin, *ids, self._end]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens included."""
        return "".join(self.pieces(ids))

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The text of each token; joined they are the whole text.

        A character whose bytes are spread over tokens belongs to the last of them, and bytes that
        are not UTF-8 become U+FFFD.
        """
        text = _TextDecoder(self)
        pieces = [text.add(token_id) for token_id in ids]
        rest = text.end()
        if rest:
            pieces[-1] += rest
        return pieces

    def streamer(self, on_text: OnText) -> Callable[[Ints, bool], None]:
        """What to call with growing beginnings of an answer's tokens [L], and True at its end.

        `on_text` gets what is new of their text, never the half of a character; `<s>`, `</s>` and
        `<pad>` are left out.
        """
        text = _TextDecoder(self, leave_out=_MARKERS)
        given = 0

        def on_tokens(token_ids: Ints, done: bool) -> None:
            nonlocal given
            piece = "".join(text.add(int(token_id)) for token_id in token_ids[given:])
            given = len(token_ids)
            piece += text.end() if done else ""
            if piece:
                on_text(piece)

        return on_tokens

    def token(self, token_id: int) -> str:
        """The vocabulary's entry for an id, its bytes as printable stand-ins; '' without one."""
        return self._tokenizer.id_to_token(token_id) or ""

    def bytes_of(self, token: str) -> bytes | None:
        """The bytes that an entry of the vocabulary stands for; None for an added token."""
        if token in self._added:
            return None
        try:
            return bytes(_BYTE_OF[character] for character in token)
        except KeyError:
            return token.encode()

    @cached_property
    def _added(self) -> frozenset[str]:
        return frozenset(
            token.content for token in self._tokenizer.get_added_tokens_decoder().values()
        )


def read_tokenizer(path: Path) -> tokenizers.Tokenizer:
    """The library's tokenizer of a tokenizer.json, for a bundle or a checkpoint.

    Its ids are checked first: the library makes room for the largest, and ends the process where
    it finds none.

    Raises:
        BundleError: the file is missing, or not a tokenizer.
    """
    try:
        with open_plain(path) as file:
            content = file.read(_MOST_BYTES + 1)
        _check_ids(read_json(content, most=_MOST_BYTES))
        return tokenizers.Tokenizer.from_buffer(content)
    except MemoryError:
        raise
    except BaseException as error:  # the library's panics are no Exceptions
        if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
            raise
        raise BundleError(
            f"{path} is not a tokenizer: {error}. Copy it again from where the checkpoint or the "
            "bundle comes from."
        ) from error


def _check_ids(content: Any) -> None:
    """Refuse ids that no vocabulary of this size has.

    Raises:
        ValueError: naming the token.
    """
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict):
        raise ValueError('it has no "model"')
    vocabulary = model.get("vocab")
    added = content.get("added_tokens") or []
    if not isinstance(vocabulary, dict) or not isinstance(added, list):
        raise ValueError("its vocabulary is not tokens with their ids")
    for token, token_id in vocabulary.items():
        _check_id(token, token_id)
    for each in added:
        if isinstance(each, dict):
            _check_id(each.get("content"), each.get("id"))


def _check_id(token: Any, token_id: Any) -> None:
    if type(token_id) is not int or not 0 <= token_id < _MOST_IDS:
        raise ValueError(
            f"{token!r:.40} has the id {token_id!r:.40}, expected 0 to {_MOST_IDS - 1}"
        )


class _TextDecoder:
    """Tokens in, text out, as soon as their bytes make whole characters."""

    def __init__(self, tokenizer: Tokenizer, leave_out: frozenset[str] = frozenset()) -> None:
        self._tokenizer = tokenizer
        self._leave_out = leave_out
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token_id: int) -> str:
        token = self._tokenizer.token(token_id)
        raw = self._tokenizer.bytes_of(token)
        if raw is not None:
            return self._utf8.decode(raw)
        # An added token ends whatever bytes were pending.
        return self.end() + ("" if token in self._leave_out else token)

    def end(self) -> str:
        """What is left of bytes that nothing completes."""
        return self._utf8.decode(b"", final=True)


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte: itself where it prints, else from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
