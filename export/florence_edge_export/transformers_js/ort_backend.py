"""The exported files in ONNX Runtime's CPU, driven by names as those do who load them.

It is a `Backend`, so that the model's own search and the gate run on it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from florence_edge.backends.base import Features, HostFeatures, NamedArrays, Pixels
from florence_edge.backends.ort_package import CPU, import_onnxruntime, use_cores
from florence_edge.contract import PARTS, TOP_K, ModelSize
from florence_edge.engine_failures import engine_failure
from florence_edge.errors import MODEL_CLOSED, BackendError
from florence_edge.search import Float32s, Ints, Scores

from ..checkpoint.defaults import ImageProcessing
from . import layout
from .layout import Dtype

_REMEDY = "Install a newer ONNX Runtime, or leave its dtype out of --dtypes."

# (names of outputs or None for all, feeds) -> outputs
Session = Callable[[Sequence[str], NamedArrays], Sequence[npt.NDArray[Any]]]


@dataclass(frozen=True, slots=True)
class Model:
    """The numbers of a model that its files do not say: sizes, and how pictures are normalized."""

    size: ModelSize
    image: ImageProcessing


def open_files(folder: Path, dtypes: Mapping[str, Dtype], model: Model) -> "OrtBackend":
    """Open the four graphs of an exported folder, each in a dtype.

    Raises:
        BackendError: one of them cannot be opened.
        MissingPackageError: ONNX Runtime is not installed.
    """
    return OrtBackend(
        {name: open_file(folder / layout.file_of(name, dtypes[name])) for name in layout.GRAPHS},
        model,
    )


def open_file(path: Path) -> Session:
    """A graph in a session of ONNX Runtime's CPU.

    Raises:
        BackendError: it cannot be opened; or, when it is run, that failed.
        MissingPackageError: ONNX Runtime is not installed.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    use_cores(options)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[CPU[0]])
    except Exception as error:  # its classes have no other base
        doing = f"ONNX Runtime {onnxruntime.__version__} cannot open {path.name}"
        raise engine_failure(doing, error, _REMEDY) from error

    def run(outputs: Sequence[str], feeds: NamedArrays) -> Sequence[npt.NDArray[Any]]:
        try:
            found: Sequence[npt.NDArray[Any]] = session.run(list(outputs), dict(feeds))
        except Exception as error:  # as above
            doing = f"ONNX Runtime failed while running {path.name}"
            raise engine_failure(doing, error, _REMEDY) from error
        return found

    return run


class OrtBackend:
    """The four graphs on arrays of numpy; see `Backend`."""

    max_new_tokens: int | None = None
    max_batch: int | None = None

    def __init__(self, sessions: Mapping[str, Session], model: Model) -> None:
        self._sessions = dict(sessions)
        self._model = model

    def encode_image(self, pixels: Pixels) -> HostFeatures:
        """Normalize squares [B, S, S, 3] uint8 and run the vision encoder; see `Backend`."""
        mean, std = (
            np.array(each, dtype=np.float32)
            for each in (self._model.image.mean, self._model.image.std)
        )
        normalized = (np.asarray(pixels, dtype=np.float32) / 255 - mean) / std
        values = np.ascontiguousarray(normalized.transpose(0, 3, 1, 2), dtype=np.float32)
        (features,) = self._run(layout.VISION_ENCODER, ["image_features"], {"pixel_values": values})
        return features

    def prefill(
        self, features: Features, input_ids: Ints, encoder_mask: Ints, *, beams: int
    ) -> "Decoding":
        """Run embed_tokens and the encoder, and open a decoder; see `Backend`."""
        words = self.embed(input_ids)
        embeds = np.concatenate([np.asarray(features, dtype=np.float32), words], axis=1)
        feeds = {"attention_mask": encoder_mask, "inputs_embeds": embeds}
        (states,) = self._run(layout.ENCODER, ["last_hidden_state"], feeds)
        return Decoding(
            embed=self.embed,
            run=partial(self._run, layout.DECODER),
            size=self._model.size,
            about={
                "encoder_attention_mask": np.repeat(encoder_mask, beams, axis=0),
                "encoder_hidden_states": np.repeat(states, beams, axis=0),
            },
        )

    def embed(self, ids: Ints) -> Float32s:
        """Token ids [B, T] -> float32 [B, T, d_model]."""
        (embeds,) = self._run(layout.EMBED_TOKENS, ["inputs_embeds"], {"input_ids": ids})
        return embeds

    def close(self) -> None:
        """Let go of the sessions."""
        self._sessions.clear()

    def _run(
        self, graph: str, outputs: Sequence[str], feeds: NamedArrays
    ) -> Sequence[npt.NDArray[Any]]:
        if not self._sessions:
            raise BackendError(MODEL_CLOSED)
        return self._sessions[graph](outputs, feeds)


class Decoding:
    """One generation: the caches that came out go in again, those of the encoder from the first."""

    def __init__(
        self,
        *,
        embed: Callable[[Ints], Float32s],
        run: Session,
        size: ModelSize,
        about: NamedArrays,
    ) -> None:
        self._embed = embed
        self._run = run
        self._about = about
        self._names = {
            layout.present(layer, attention, part): layout.past(layer, attention, part)
            for layer in range(size.decoder_layers)
            for attention in layout.ATTENTIONS
            for part in PARTS
        }
        rows = len(about["encoder_attention_mask"])
        nothing = np.zeros((rows, size.decoder_heads, 0, size.head_dim), dtype=np.float32)
        self._caches = dict.fromkeys(self._names.values(), nothing)
        self._begun = False

    def step(self, tokens: Ints, parents: Ints) -> Sequence[Scores]:
        """See `DecoderSession.step`."""
        images, beams = tokens.shape
        rows = (np.arange(images)[:, None] * beams + parents).reshape(-1)
        if not np.array_equal(rows, np.arange(len(rows))):
            self._caches = {name: cache[rows] for name, cache in self._caches.items()}
        feeds = {
            **self._about,
            **self._caches,
            "inputs_embeds": self._embed(tokens.reshape(-1, 1)),
            "use_cache_branch": np.array([self._begun]),
        }
        logits, *caches = self._run(["logits", *self._names], feeds)
        for name, cache in zip(self._names, caches, strict=True):
            if not (self._begun and ".encoder." in name):
                self._caches[self._names[name]] = cache
        self._begun = True
        return [_scores(image) for image in logits[:, -1].reshape(images, beams, -1)]


def _scores(logits: Float32s) -> Scores:
    """The scores of rows of logits [rows, vocab]; the lower id first where two are equal."""
    best = np.sort(np.argpartition(-logits, TOP_K - 1, axis=-1)[:, :TOP_K], axis=-1)
    of_best = np.take_along_axis(logits, best, axis=-1)
    sorted_ = np.argsort(-of_best, axis=-1, kind="stable")
    order = np.take_along_axis(best, sorted_, axis=-1)
    top = np.take_along_axis(of_best, sorted_, axis=-1)
    with np.errstate(invalid="ignore"):  # of what is not finite; whoever reads it looks
        log_sum_exp = np.log(np.exp(logits - top[:, :1]).sum(axis=-1))
    return Scores(top, order, log_sum_exp, logits=lambda: logits)
