"""Text to token ids and back, with the piece of text that each token stands for."""

import codecs
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import tokenizers

from .errors import BundleError
from .options import Generation

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

    def __init__(self, path: Path, generation: Generation) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:
            raise BundleError(
                f"{path} is not a tokenizer: {error}. Export the bundle again."
            ) from error
        # Saving a tokenizer after training on batches leaves their padding and truncation in it.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._begin, self._end = generation.bos_token_id, generation.eos_token_id

    def prompt_ids(self, prompt: str) -> list[int]:
        """`<s>`, the prompt's tokens, `</s>`; what is no Unicode in the prompt becomes U+FFFD."""
        unicode = prompt.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        ids = self._tokenizer.encode(unicode, add_special_tokens=False).ids
        return [self._begin, *ids, self._end]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens included."""
        return "".join(self.pieces(ids))

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The text of each token; joined they are the whole text.

        A character whose bytes are spread over tokens belongs to the last of them, and bytes that
        are no UTF-8 become U+FFFD.
        """
        utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        pieces: list[str] = []
        for token_id in ids:
            token = self._tokenizer.id_to_token(token_id) or ""
            raw = self._bytes_of(token)
            if raw is None:  # an added token ends whatever bytes were pending
                pieces.append(utf8.decode(b"", final=True) + token)
            else:
                pieces.append(utf8.decode(raw))
        rest = utf8.decode(b"", final=True)
        if rest:
            pieces[-1] += rest
        return pieces

    def _bytes_of(self, token: str) -> bytes | None:
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


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte: itself where it prints, else from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
