"""Which of a checkpoint's matrices are the embeddings of prompt and answer, and which the head.

Florence-2 ties them, and a checkpoint may all the same store up to four, with equal values or not.
What is right is what the checkpoint's own code makes of them when it loads:

transformers' native class ties what is missing to what is there, and leaves apart what is stored
with other values, whatever `tie_word_embeddings` says. Prompts are looked up in `shared`; the
encoder's own table is not read. (Found with transformers 5.24 for all combinations.)

Microsoft's code ties all of them, or the head not, by `tie_word_embeddings`; where stored values
differ, it depends on transformers which of them win: with 4.41 the last that is read, with 4.49
and 4.56 `shared`.
"""

import logging
from collections.abc import Mapping, MutableMapping

import numpy as np

from florence_edge.errors import BundleError

from .config import CheckpointConfig, Layout
from .tensors import StoredTensor

logger = logging.getLogger(__name__)

SHARED = "language_model.shared.weight"
ENCODER = "language_model.encoder.embed_tokens.weight"
DECODER = "language_model.decoder.embed_tokens.weight"
HEAD = "lm_head.weight"
_ALL = (SHARED, HEAD, DECODER, ENCODER)


def resolve_embeddings(
    tensors: MutableMapping[str, StoredTensor], config: CheckpointConfig
) -> None:
    """Leave `SHARED`, and `DECODER` and `HEAD` only where their values are others, in place.

    A stored matrix that nothing reads is named in a warning, unless its values are those of
    `SHARED`.

    Raises:
        BundleError: there is no embedding, the checkpoint's code would fill one of the matrices
            with random numbers, or which matrix it takes cannot be said.
    """
    stored = {name: tensors.pop(name) for name in _ALL if name in tensors}
    if config.layout is Layout.MICROSOFT:
        shared, decoder, head = _of_microsoft(stored, config)
    else:
        shared, decoder, head = _of_transformers(stored, config)
    tensors[SHARED] = shared
    if not same_values(decoder, shared):
        tensors[DECODER] = decoder
    if not same_values(head, decoder):
        tensors[HEAD] = head
    unread = stored.get(ENCODER)
    if unread is not None and not same_values(unread, shared):
        logger.warning(
            "%s is stored with values of its own and not used: prompts are looked up in %s, as "
            "transformers does.",
            ENCODER,
            SHARED,
        )


def _of_transformers(
    stored: Mapping[str, StoredTensor], config: CheckpointConfig
) -> tuple[StoredTensor, StoredTensor, StoredTensor]:
    """Embedding of prompts, embedding of answers and head of the native class."""
    candidates = [SHARED]
    candidates += [HEAD] if config.ties_head else []
    candidates += [DECODER, ENCODER] if config.ties_embeddings else []
    shared = _first(stored, candidates)
    decoder = stored.get(DECODER, shared if config.ties_embeddings else None)
    if decoder is None:
        raise _random(DECODER, "text_config.tie_word_embeddings")
    head = stored.get(HEAD, shared if config.ties_head else None)
    if head is None:
        raise _random(HEAD, "tie_word_embeddings")
    return shared, decoder, head


def _of_microsoft(
    stored: Mapping[str, StoredTensor], config: CheckpointConfig
) -> tuple[StoredTensor, StoredTensor, StoredTensor]:
    """The same of Microsoft's code, as far as all versions of transformers agree."""
    tied = config.ties_head and config.ties_embeddings
    tables = (SHARED, DECODER, ENCODER, *((HEAD,) if tied else ()))
    shared = _first(stored, tables)
    for name in tables:
        if name in stored and not same_values(stored[name], shared):
            raise _undecided(name)
    head = stored.get(HEAD, shared if config.ties_head or config.ties_embeddings else None)
    if head is None:
        raise _random(HEAD, "tie_word_embeddings")
    if config.ties_head != config.ties_embeddings and not same_values(head, shared):
        raise _undecided(HEAD)
    return shared, shared, head


def _first(stored: Mapping[str, StoredTensor], names: list[str] | tuple[str, ...]) -> StoredTensor:
    found = next((stored[name] for name in names if name in stored), None)
    if found is None:
        raise BundleError(
            f"There is no token embedding ({SHARED}) in the weights. They are incomplete or belong "
            "to another architecture."
        )
    return found


def _random(name: str, flag: str) -> BundleError:
    return BundleError(
        f"config.json says {flag} = false, and {name} is not stored: loading the checkpoint would "
        f"fill it with random numbers. Save it with the checkpoint, or set {flag} to true."
    )


def _undecided(name: str) -> BundleError:
    return BundleError(
        f"{name} is stored with other values than the embedding, and which of them Microsoft's "
        "code takes depends on the version of transformers. If the head is its own, set "
        "tie_word_embeddings to false in config.json and in its text_config; if it is the "
        f"embedding, delete {name} from the weights."
    )


def same_values(one: StoredTensor, other: StoredTensor) -> bool:
    """Whether two stored tensors are one; NaN equals nothing."""
    if one is other:
        return True
    return one.shape == other.shape and np.array_equal(one.load(), other.load())
