"""The tokenizer of a checkpoint, completed with Florence-2's own 1,024 tokens where they lack.

Microsoft's folders carry BART's tokenizer; their processing code adds the rest when it is loaded.
"""

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from florence_edge.errors import BundleError
from florence_edge.tokenizer import FLORENCE_TOKENS, read_tokenizer

_IMAGE = "<image>"
_SHOWN = 3


def complete_tokenizer(folder: Path, vocab_size: int) -> Tokenizer:
    """Read `folder/tokenizer.json`; every token of Florence-2 has an id below `vocab_size` after.

    Raises:
        BundleError: there is no tokenizer.json, or its tokens do not fit the model's vocabulary.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        raise BundleError(
            f"{folder} has no tokenizer.json. Copy it from the model this one was tuned from "
            "(with transformers: AutoTokenizer.from_pretrained(ORIGINAL).save_pretrained(FOLDER))."
        )
    tokenizer = read_tokenizer(path)

    present = [token for token in FLORENCE_TOKENS if tokenizer.token_to_id(token) is not None]
    if not present:
        tokenizer.add_special_tokens(
            [AddedToken(token, normalized=False, special=True) for token in FLORENCE_TOKENS]
        )
    elif len(present) < len(FLORENCE_TOKENS):
        missing = sorted(set(FLORENCE_TOKENS) - set(present))
        raise BundleError(
            f"{path} has some of Florence-2's tokens, but lacks {missing[:3]} and "
            f"{len(missing)} in all. Use the tokenizer of the original checkpoint."
        )
    highest = max(tokenizer.token_to_id(token) or 0 for token in FLORENCE_TOKENS)
    if highest >= vocab_size:
        raise BundleError(
            f"{path} gives Florence-2's tokens ids up to {highest}, but the model's vocabulary "
            f"ends at {vocab_size - 1}. Tokenizer and weights do not belong together."
        )
    _check_vocabulary(path, tokenizer, vocab_size)
    return tokenizer


def _check_vocabulary(path: Path, tokenizer: Tokenizer, vocab_size: int) -> None:
    """Refuse tokens that the model has no embedding for: a prompt with one would end in an engine.

    `<image>` may be one: transformers' processor puts it where the picture goes, and nothing else
    uses it.
    """
    beyond = {
        token: token_id
        for token, token_id in tokenizer.get_vocab(with_added_tokens=True).items()
        if token_id >= vocab_size and token != _IMAGE
    }
    if beyond:
        shown = sorted(beyond, key=beyond.__getitem__)[:_SHOWN]
        raise BundleError(
            f"{path} has tokens ({len(beyond)}) that the model does not know: its vocabulary ends "
            f"at {vocab_size - 1}, and {', '.join(f'{t} is {beyond[t]}' for t in shown)}. "
            "Call model.resize_token_embeddings(len(tokenizer)), train them and save the model "
            "again, or take the tokenizer of the original checkpoint."
        )


def byte_tokenizer() -> Tokenizer:
    """A token a byte, and Florence-2's own tokens after them: nothing to train or to download."""
    special = ("<s>", "<pad>", "</s>", "<unk>")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate((*special, *letters))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    added = (*special, "<mask>", *FLORENCE_TOKENS)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in added])
    return tokenizer
