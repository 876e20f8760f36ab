"""The tokenizer of a checkpoint, completed with Florence-2's own 1,024 tokens where they lack.

Microsoft's folders carry BART's tokenizer; their processing code adds the rest when it is loaded.
"""

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from florence_edge.errors import BundleError
from florence_edge.tokenizer import FLORENCE_TOKENS


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
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise BundleError(f"{path} is not a tokenizer: {error}. Fetch it again.") from error

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
    return tokenizer


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
