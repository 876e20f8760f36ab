"""`export`: a checkpoint in, a bundle out."""

import json
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from florence_edge import contract
from florence_edge.backends.ort import open_ort
from florence_edge.bundle import FIDELITY, PRECISIONS, Bundle
from florence_edge.contract import ModelSize
from florence_edge.errors import MissingPackageError, RequestError
from florence_edge.selftest import REFERENCE, write_reference
from florence_edge_calibration.fp16 import convert_to_float16

from .bundle_writer import (
    BundleFormat,
    BundleSource,
    new_folder,
    save_bundle,
    write_manifest,
)
from .checkpoint.config import model_size
from .checkpoint.defaults import read_generation, read_image_processing
from .checkpoint.loader import read_checkpoint
from .checkpoint.tokenizer import complete_tokenizer
from .graphs.build import build_graphs, build_in_place_decoder
from .graphs.weights import GraphWeights
from .int8.export import Int8Options, check_int8_options, write_int8
from .verify.reference import check_installed

logger = logging.getLogger(__name__)

_FLOAT32 = BundleFormat("fp32")
_FLOAT16 = BundleFormat("fp16", floats="float16")


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
        BundleError: the checkpoint cannot be used, or `output` cannot be written.
        MissingPackageError: a package is missing that these options need.
        RequestError: an option does not fit, or `output` exists and may not be replaced.
    """
    check_options(model, options)
    with new_folder(output, overwrite=options.overwrite) as temporary:
        source = _read_source(model, folder, options)
        if options.precision == "int8":
            _export_int8(source, temporary, options.int8)
        elif options.precision == "fp16":
            save_bundle(temporary, source, _FLOAT16, _float16_graphs(source))
        else:
            save_bundle(temporary, source, _FLOAT32, _float_graphs(source))
        logger.info("Writing %s", output)
        _add_reference(temporary)
        if options.verify:
            _verify(temporary, source, strict=options.precision == "fp32")
        write_manifest(temporary)  # once more, with the files that were added


def check_options(model: str, options: ExportOptions) -> None:
    """Refuse what cannot be done before a download, or minutes of work.

    Raises:
        MissingPackageError, RequestError: what is wrong, and what to do instead.
    """
    if options.precision not in PRECISIONS:
        raise RequestError(
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


def _read_source(model: str, folder: Path, options: ExportOptions) -> BundleSource:
    checkpoint = read_checkpoint(folder)
    image = read_image_processing(folder)
    side = image.size if options.image_size is None else options.image_size
    size = model_size(checkpoint.config, side)
    return BundleSource(
        model=model,
        checkpoint=checkpoint,
        size=size,
        image=image,
        tokenizer=complete_tokenizer(folder, checkpoint.config.text.vocab_size),
        defaults=read_generation(folder, checkpoint.config),
        in_place=_in_place_capacity(options.in_place, size),
    )


def _in_place_capacity(tokens: int | None, size: ModelSize) -> int | None:
    if tokens is None:
        return None
    if not 1 <= tokens <= size.decoder_positions:
        raise RequestError(
            f"--in-place-decoder is {tokens}; expected 1 to {size.decoder_positions} tokens (the "
            "model's)."
        )
    return contract.cache_capacity(tokens, size.decoder_positions)


def _float_graphs(source: BundleSource) -> dict[str, ir.Model]:
    """The three graphs in float32, and the in-place decoder where that is requested."""
    side = source.size.image_size
    logger.info("Building the graphs for %d x %d pixels", side, side)
    weights = GraphWeights(source.checkpoint, side, source.image.mean, source.image.std)
    config, size = source.checkpoint.config, source.size
    graphs = build_graphs(config, size, weights)
    if source.in_place is not None:
        decoder = build_in_place_decoder(config, size, weights, source.in_place)
        graphs[contract.IN_PLACE] = decoder
    return graphs


def _float16_graphs(source: BundleSource) -> Mapping[str, ir.Model]:
    """The same in float16, but for the scores that come out."""
    scores = frozenset({"top_log_probs", "log_probs"})
    graphs = _float_graphs(source)
    for model in graphs.values():
        convert_to_float16(model, float32_outputs=scores)
    return graphs


def _export_int8(source: BundleSource, folder: Path, options: Int8Options) -> None:
    """An int8 bundle by way of the float32 one, which lies beside it while it is needed."""
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}-float-", dir=folder.parent) as scratch:
        floats = save_bundle(Path(scratch), source, _FLOAT32, _float_graphs(source))
        write_int8(floats, source, folder, options)


def _add_reference(folder: Path) -> None:
    """Put reference.npz into the bundle, if the engine that makes it is installed."""
    bundle = Bundle.load(folder)
    try:
        backend = open_ort(bundle)
    except MissingPackageError:
        logger.warning(
            "%s is left out: making it needs ONNX Runtime (florence-edge[cpu]).", REFERENCE
        )
        return
    write_reference(bundle, backend, folder)


def _verify(folder: Path, source: BundleSource, *, strict: bool) -> None:
    """Compare with transformers, and put the result into the bundle's fidelity.json."""
    from .verify.compare import verify  # imports torch

    path = folder / FIDELITY
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    content["against_reference"] = verify(folder, source.checkpoint, source.image, strict=strict)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
