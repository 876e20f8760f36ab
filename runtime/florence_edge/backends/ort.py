"""ONNX Runtime: the CPU provider, and CUDA with the caches kept in host memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import contract
from ..bundle import Bundle
from ..errors import BackendError
from ..logits import Ints
from ..search import Floats, Scores
from .base import Features, Pixels
from .lineage import Lineage

try:
    import onnxruntime
except ImportError as _error:
    raise BackendError(
        "ONNX Runtime is not installed. Install florence-edge[cpu], or florence-edge[gpu] for CUDA "
        "(one of them, not both)."
    ) from _error


class OrtBackend:
    """The three sessions of a bundle in ONNX Runtime."""

    def __init__(
        self, bundle: Bundle, *, cuda_device: int | None = None, threads: int | None = None
    ) -> None:
        self._bundle = bundle
        self._sessions = {
            name: _open_session(bundle, name, cuda_device, threads) for name in contract.GRAPHS
        }

    def look(self, pixels: Pixels) -> Features:
        session = self._sessions[contract.VISION_ENCODER]
        features: Features = _run(session, ["image_features"], {"pixels": pixels})[0]
        return features

    def read(
        self, features: Features, input_ids: Ints, encoder_mask: Ints, *, beams: int
    ) -> "OrtDecoder":
        return OrtDecoder(
            self._sessions[contract.DECODER],
            self._bundle.size,
            self.cross_caches(features, input_ids, encoder_mask),
            encoder_mask,
            beams=beams,
        )

    def cross_caches(
        self, features: Features, input_ids: Ints, encoder_mask: Ints
    ) -> dict[str, Features]:
        """Run the text encoder: its outputs by name."""
        names = [
            contract.cross_cache(layer, part)
            for layer in range(self._bundle.size.decoder_layers)
            for part in contract.PARTS
        ]
        feeds = {"image_features": features, "input_ids": input_ids, "encoder_mask": encoder_mask}
        caches = _run(self._sessions[contract.TEXT_ENCODER], names, feeds)
        return dict(zip(names, caches, strict=True))


class OrtDecoder:
    """One generation: caches in host memory, every tensor bound once per cache bucket.

    All self-attention caches are one array [caches, rows, heads, capacity, head_dim], so that
    placing new rows and following parents is one numpy statement each.
    """

    def __init__(
        self,
        session: Any,
        size: contract.ModelSize,
        cross_caches: dict[str, Features],
        encoder_mask: Ints,
        *,
        beams: int,
    ) -> None:
        self._session = session
        self._size = size
        images = len(encoder_mask)
        self._rows = images * beams
        self._constant = cross_caches | {"encoder_mask": encoder_mask}
        self._floats = next(iter(cross_caches.values())).dtype
        self._names = [
            (contract.self_cache(layer, part), contract.new_row(layer, part))
            for layer in range(size.decoder_layers)
            for part in contract.PARTS
        ]
        self._token_ids = np.empty((images, beams), dtype=np.int64)
        self._position = np.full(1, -1, dtype=np.int64)
        self._scores = _ScoreBuffers(images, beams, size.vocab_size)
        self._new_rows = np.empty(
            (len(self._names), self._rows, size.decoder_heads, 1, size.head_dim), self._floats
        )
        self._lineage = Lineage(images, beams)
        self._caches = self._empty_caches(contract.cache_capacity(1, size.decoder_positions))
        self._binding = self._bind()

    def step(self, tokens: Ints, parents: Ints) -> Sequence[Scores]:
        """See `Decoder.step`."""
        self._position += 1
        position = int(self._position[0])
        self._follow(parents, position)
        if position == self._caches.shape[3]:
            self._grow(position)
        self._token_ids[:] = tokens
        _run_bound(self._session, self._binding)
        self._caches[:, :, :, position] = self._new_rows[:, :, :, 0]
        return self._scores.of_images()

    def _follow(self, parents: Ints, position: int) -> None:
        """Give each row the past of its parent; only what differs is copied."""
        copies = self._lineage.follow(parents, position)
        if copies is None:
            return
        rows, sources, first = copies
        self._caches[:, rows, :, first:position] = self._caches[:, sources, :, first:position]

    def _grow(self, position: int) -> None:
        capacity = contract.cache_capacity(position + 1, self._size.decoder_positions)
        grown = self._empty_caches(capacity)
        grown[:, :, :, :position] = self._caches
        self._caches = grown
        self._binding = self._bind()

    def _empty_caches(self, capacity: int) -> npt.NDArray[np.floating]:
        """Zeros: unwritten rows are masked, but a NaN among them would survive the mask."""
        heads, head_dim = self._size.decoder_heads, self._size.head_dim
        return np.zeros((len(self._names), self._rows, heads, capacity, head_dim), self._floats)

    def _bind(self) -> Any:
        binding = self._session.io_binding()
        inputs = self._constant | {"token_ids": self._token_ids, "position": self._position}
        outputs = self._scores.by_name()
        for i, (cache, new_row) in enumerate(self._names):
            inputs[cache] = self._caches[i]
            outputs[new_row] = self._new_rows[i]
        for name, array in inputs.items():
            value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
            binding.bind_ortvalue_input(name, value)
        for name, array in outputs.items():
            value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
            binding.bind_ortvalue_output(name, value)
        return binding


class _ScoreBuffers:
    """Where the decoder writes its scores, and how an image sees them."""

    def __init__(self, images: int, beams: int, vocab_size: int) -> None:
        self._top_log_probs: Floats = np.empty((images, beams, contract.TOP_K), dtype=np.float32)
        self._top_ids: Ints = np.empty((images, beams, contract.TOP_K), dtype=np.int64)
        self._log_probs: Floats = np.empty((images, beams, vocab_size), dtype=np.float32)
        self._of_images = tuple(
            Scores(self._top_log_probs[i], self._top_ids[i], self._full(i)) for i in range(images)
        )

    def by_name(self) -> dict[str, npt.NDArray[Any]]:
        return {
            "top_log_probs": self._top_log_probs,
            "top_ids": self._top_ids,
            "log_probs": self._log_probs,
        }

    def of_images(self) -> Sequence[Scores]:
        return self._of_images

    def _full(self, image: int) -> Any:
        return lambda: self._log_probs[image]


def _open_session(bundle: Bundle, name: str, cuda_device: int | None, threads: int | None) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only; what matters is raised below
    if threads is not None:
        options.intra_op_num_threads = threads
    providers: list[Any] = ["CPUExecutionProvider"]
    if cuda_device is not None:
        _check_cuda(onnxruntime.get_available_providers())  # or ONNX Runtime would only warn
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": cuda_device}))
    try:
        session = onnxruntime.InferenceSession(
            str(bundle.graph_file(name)), options, providers=providers
        )
    except Exception as error:
        raise BackendError(
            f"ONNX Runtime {onnxruntime.__version__} cannot open {bundle.graph_file(name)}: "
            f"{error}. Run florence-run with --check, or export the bundle again."
        ) from error
    if cuda_device is not None:
        _check_cuda(session.get_providers())
    _check_signature(bundle, name, session)
    return session


def _check_cuda(providers: Sequence[str]) -> None:
    if "CUDAExecutionProvider" not in providers:
        raise BackendError(
            f"CUDA did not become active in ONNX Runtime {onnxruntime.__version__} (it has "
            f"{', '.join(providers)}). Install florence-edge[gpu] instead of [cpu], with CUDA and "
            "cuDNN of the versions it was built for, or use device='cpu'."
        )


def _check_signature(bundle: Bundle, name: str, session: Any) -> None:
    """The graph must have the contract's tensors; otherwise the file is not this bundle's."""
    expected = contract.graphs(bundle.size, bundle.floats)[name]
    for kind, tensors, found in (
        ("inputs", expected.inputs, session.get_inputs()),
        ("outputs", expected.outputs, session.get_outputs()),
    ):
        if {(tensor.name, _static(tensor.shape)) for tensor in tensors} != {
            (value.name, _static(value.shape)) for value in found
        }:
            raise BackendError(
                f"The {kind} of {bundle.graph_file(name)} are not those of contract "
                f"{contract.CONTRACT_VERSION}. Export the bundle again."
            )


def _static(shape: Sequence[int | str]) -> tuple[int | None, ...]:
    """A shape without the names of its dynamic dimensions."""
    return tuple(side if isinstance(side, int) else None for side in shape)


def _run(session: Any, outputs: list[str], feeds: dict[str, npt.NDArray[Any]]) -> list[Any]:
    try:
        results: list[Any] = session.run(outputs, feeds)
    except Exception as error:
        raise BackendError(f"ONNX Runtime failed while running: {error}") from error
    return results


def _run_bound(session: Any, binding: Any) -> None:
    try:
        session.run_with_iobinding(binding)
    except Exception as error:
        raise BackendError(f"ONNX Runtime failed while running: {error}") from error
