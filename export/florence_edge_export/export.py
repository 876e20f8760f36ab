"""`export`: a checkpoint in, a bundle out."""

import json
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir
from tokenizers import Tokenizer as TokenizerFile

from florence_edge import __version__, contract
from florence_edge.bundle import FIDELITY, MANIFEST, PRECISIONS, PRODUCER, TOKENIZER, Bundle
from florence_edge.contract import ModelSize
from florence_edge.errors import BackendError, BundleError, RequestError
from florence_edge.selftest import REFERENCE, write_reference
from florence_edge_calibration.half import half_from_float
from florence_edge_calibration.int8.targets import Target

from .bundle import new_folder, save_graphs, write_manifest
from .checkpoint.defaults import (
    GenerationDefaults,
    ImageProcessing,
    read_generation,
    read_image_processing,
)
from .checkpoint.folder import Checkpoint, read_checkpoint
from .checkpoint.size import model_size
from .checkpoint.tokenizer import complete_tokenizer
from .graphs.build import build_graphs, build_in_place_decoder
from .graphs.weights import GraphWeights
from .int8.options import Int8Options, check_int8_options
from .verify.reference import check_installed

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What to make of a checkpoint; `image_size` None means the checkpoint's own.

    `in_place` adds the decoder that writes its caches itself, for answers of so many tokens.
    """

    precision: str = "fp32"
    image_size: int | None = None
    verify: bool = False
    overwrite: bool = False
    int8: Int8Options = field(default_factory=Int8Options)
    in_place: int | None = None


def export(model: str, folder: Path, output: Path, options: ExportOptions) -> None:
    """Export the checkpoint in `folder` as a bundle at `output`.

    Args:
        model: what the user called the checkpoint; the manifest and error messages repeat it.
        folder: the checkpoint.
        output: where the bundle goes; there is either the whole bundle or what was there before.
        options: precision and image size.

    Raises:
        BundleError: the checkpoint or the options cannot be used, or `output` cannot be written.
        RequestError: what int8 needs is missing or does not fit.
    """
    check_options(model, options)
    with new_folder(output, overwrite=options.overwrite) as temporary:
        source = _Source.read(model, folder, options)
        if options.precision == "int8":
            _write_int8(source, temporary, options.int8)
        else:
            graphs = source.graphs()
            if options.precision == "fp16":
                _halve(graphs)
            source.write(temporary, graphs, _Form.of(options.precision))
        logger.info("Writing %s", output)
        _sample(temporary)
        if options.verify:
            strict = options.precision == "fp32"
            _verify(temporary, source.checkpoint, source.image, strict=strict)
        write_manifest(temporary)  # once more, with what the new bundle showed


def check_options(model: str, options: ExportOptions) -> None:
    """Refuse what cannot be done before a download, or minutes of work.

    Raises:
        BundleError, RequestError: what is wrong, and what to do instead.
    """
    if options.precision not in PRECISIONS:
        raise BundleError(
            f"There is no precision {options.precision!r}. Choose from {', '.join(PRECISIONS)}."
        )
    if options.precision == "int8":
        check_int8_options(model, options.int8)
        if options.in_place is not None and options.int8.target == "cpu":
            raise RequestError(
                "The in-place decoder is for TensorRT, which does not run what is made with "
                "--target cpu. Leave out one of --in-place-decoder and --target."
            )
    if options.verify:
        check_installed()


@dataclass(frozen=True, slots=True)
class _Form:
    """How a bundle's graphs compute."""

    precision: str
    target: str = "any"
    floats: str = "float32"

    @staticmethod
    def of(precision: str, target: Target = "tensorrt") -> "_Form":
        """The portable int8 is called `tensorrt` where it is made, and runs on any engine."""
        if precision == "fp32":
            return _Form(precision)
        if precision == "int8" and target == "cpu":
            return _Form(precision, target)
        return _Form(precision, floats="float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A checkpoint, read and checked: what every bundle of it is made from."""

    model: str
    checkpoint: Checkpoint
    size: ModelSize
    image: ImageProcessing
    tokenizer: TokenizerFile
    defaults: GenerationDefaults
    in_place: int | None  # cache capacity

    @staticmethod
    def read(model: str, folder: Path, options: ExportOptions) -> "_Source":
        checkpoint = read_checkpoint(folder)
        image = read_image_processing(folder)
        side = image.size if options.image_size is None else options.image_size
        size = model_size(checkpoint.config, side)
        return _Source(
            model=model,
            checkpoint=checkpoint,
            size=size,
            image=image,
            tokenizer=complete_tokenizer(folder, checkpoint.config.text.vocab_size),
            defaults=read_generation(folder, checkpoint.config),
            in_place=_in_place_capacity(options.in_place, size),
        )

    def graphs(self) -> dict[str, ir.Model]:
        """The three graphs in float32, and the in-place decoder where that is wished for."""
        side = self.size.image_size
        logger.info("Building the graphs for %d x %d pixels", side, side)
        weights = GraphWeights(self.checkpoint, side, self.image.mean, self.image.std)
        config, size = self.checkpoint.config, self.size
        graphs = build_graphs(config, size, weights)
        if self.in_place is not None:
            decoder = build_in_place_decoder(config, size, weights, self.in_place)
            graphs[contract.IN_PLACE] = decoder
        return graphs

    def write(self, folder: Path, graphs: Mapping[str, ir.Model], form: _Form) -> Bundle:
        """Write graphs, tokenizer and manifest; a bundle that was there is written anew."""
        (folder / MANIFEST).unlink(missing_ok=True)
        save_graphs(folder, graphs)
        (folder / TOKENIZER).write_text(self.tokenizer.to_str(pretty=True), encoding="utf-8")
        write_manifest(folder, self._facts(form))
        return Bundle.load(folder)

    def _facts(self, form: _Form) -> dict[str, Any]:
        """The manifest, but for the list of files."""
        return {
            "contract": contract.CONTRACT_VERSION,
            "producer": f"{PRODUCER} {__version__}",
            "model": {
                "name": self.model,
                "layout": self.checkpoint.config.layout.value,
                "sha256": self.checkpoint.sha256(),
            },
            **asdict(form),
            **({} if self.in_place is None else {"in_place": self.in_place}),
            "size": asdict(self.size),
            "image": {
                "mean": list(self.image.mean),
                "std": list(self.image.std),
                "resample": "bicubic",
            },
            "generation": asdict(self.defaults.generation),
            "generation_from": list(self.defaults.sources),
        }


def _in_place_capacity(tokens: int | None, size: ModelSize) -> int | None:
    if tokens is None:
        return None
    if not 1 <= tokens <= size.decoder_positions:
        raise RequestError(
            f"--in-place-decoder is {tokens}; expected 1 to {size.decoder_positions} tokens (the "
            "model's)."
        )
    return contract.cache_capacity(tokens, size.decoder_positions)


def _write_int8(source: _Source, folder: Path, options: Int8Options) -> None:
    """An int8 bundle by way of the float one, which is kept beside it while it is needed."""
    from .int8.bundle import write_int8  # needs an engine, which other exports do without

    form = _Form.of("int8", options.target)
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}-float-", dir=folder.parent) as scratch:
        floats = source.write(Path(scratch), source.graphs(), _Form.of("fp32"))
        write_int8(floats, folder, options, lambda graphs: source.write(folder, graphs, form))


def _halve(graphs: Mapping[str, ir.Model]) -> None:
    scores = frozenset({"top_log_probs", "log_probs"})
    for model in graphs.values():
        half_from_float(model, float32_outputs=scores)


def _sample(folder: Path) -> None:
    """Put reference.npz into the bundle, if the engine that makes it is here."""
    try:
        from florence_edge.backends.ort import open_ort
    except BackendError:
        logger.warning(
            "%s is left out: making it needs ONNX Runtime (florence-edge[cpu]).", REFERENCE
        )
        return
    bundle = Bundle.load(folder)
    write_reference(bundle, open_ort(bundle), folder)


def _verify(bundle: Path, checkpoint: Checkpoint, image: ImageProcessing, *, strict: bool) -> None:
    """Compare with transformers and put what was found into the bundle."""
    from .verify.comparison import verify  # needs an engine, and torch

    path = bundle / FIDELITY
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found["against_reference"] = verify(bundle, checkpoint, image, strict=strict)
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
