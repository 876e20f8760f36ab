"""`export`: a checkpoint in, a bundle out."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from florence_edge import __version__, contract
from florence_edge.bundle import FIDELITY, PRECISIONS, PRODUCER, TOKENIZER, Bundle
from florence_edge.contract import ModelSize
from florence_edge.errors import BackendError, BundleError
from florence_edge.options import Generation
from florence_edge.selftest import REFERENCE, write_reference
from florence_edge_calibration.half import half_from_float

from .bundle import new_folder, save_graphs, write_manifest
from .checkpoint import Checkpoint, read_checkpoint
from .config import CheckpointConfig
from .defaults import GenerationDefaults, ImageProcessing, read_generation, read_image_processing
from .graphs.build import build_graphs
from .reference import check_installed
from .tokenizer import complete_tokenizer
from .weights import GraphWeights

logger = logging.getLogger(__name__)

PROMPT_ROOM = 32  # encoder positions that a prompt may need beside the image tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What to make of a checkpoint; `image_size` None means the checkpoint's own."""

    precision: str = "fp32"
    image_size: int | None = None
    verify: bool = False
    overwrite: bool = False


def export(model: str, folder: Path, output: Path, options: ExportOptions) -> None:
    """Export the checkpoint in `folder` as a bundle at `output`.

    Args:
        model: what the user called the checkpoint; the manifest and error messages repeat it.
        folder: the checkpoint.
        output: where the bundle goes; there is either the whole bundle or what was there before.
        options: precision and image size.

    Raises:
        BundleError: the checkpoint or the options cannot be used, or `output` cannot be written.
    """
    if options.precision not in PRECISIONS:
        raise BundleError(
            f"There is no precision {options.precision!r}. Choose from {', '.join(PRECISIONS)}."
        )
    if options.verify:
        check_installed()  # before minutes of work, not after
    with new_folder(output, overwrite=options.overwrite) as temporary:
        checkpoint = read_checkpoint(folder)
        image = read_image_processing(folder)
        image_size = image.size if options.image_size is None else options.image_size
        size = model_size(checkpoint.config, image_size)
        tokenizer = complete_tokenizer(folder, checkpoint.config.text.vocab_size)
        defaults = read_generation(folder, checkpoint.config)

        logger.info("Building the graphs for %d x %d pixels", image_size, image_size)
        weights = GraphWeights(checkpoint, image_size, image.mean, image.std)
        graphs = build_graphs(checkpoint.config, size, weights)
        if options.precision == "fp16":
            _halve(graphs)

        logger.info("Writing %s", output)
        save_graphs(temporary, graphs)
        (temporary / TOKENIZER).write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
        facts = _facts(model, checkpoint, size, options.precision, defaults, image)
        write_manifest(temporary, facts)
        _sample(temporary)
        if options.verify:
            _verify(temporary, checkpoint, image, strict=options.precision == "fp32")
        write_manifest(temporary, facts)  # once more, with what the new bundle showed


def model_size(config: CheckpointConfig, image_size: int) -> ModelSize:
    """The numbers of the contract for this model at this image size.

    Raises:
        BundleError: the model has too few positions for pictures of this size.
    """
    vision, text = config.vision, config.text
    stride = 1
    for patch_stride in vision.patch_strides:
        stride *= patch_stride
    if image_size < stride or image_size % stride:
        raise BundleError(
            f"The image size is {image_size}; it must be a multiple of {stride}, the stride of "
            "this model's vision encoder."
        )
    image_tokens = vision.image_tokens(image_size)
    largest = _largest_image_size(config, stride)
    if image_size > largest:
        raise BundleError(
            f"The image size is {image_size}, which makes {image_tokens} image tokens; with its "
            f"{text.positions} encoder positions and {vision.position_embeddings} image positions "
            f"this model sees at most {largest} pixels."
        )
    if text.vocab_size < contract.TOP_K:
        raise BundleError(
            f"The vocabulary has {text.vocab_size} entries, expected at least {contract.TOP_K}."
        )
    return ModelSize(
        image_size=image_size,
        image_tokens=image_tokens,
        d_model=text.d_model,
        decoder_layers=text.decoder_layers,
        decoder_heads=text.decoder_heads,
        vocab_size=text.vocab_size,
        encoder_positions=text.positions,
        decoder_positions=text.positions,
    )


def _largest_image_size(config: CheckpointConfig, stride: int) -> int:
    vision = config.vision
    side = 0
    while (
        vision.grid(side + stride) <= vision.position_embeddings
        and vision.image_tokens(side + stride) + PROMPT_ROOM <= config.text.positions
    ):
        side += stride
    return side


def _halve(graphs: Mapping[str, ir.Model]) -> None:
    scores = frozenset({"top_log_probs", "log_probs"})
    for model in graphs.values():
        half_from_float(model, float32_outputs=scores)


def _sample(folder: Path) -> None:
    """Put reference.npz into the bundle, if the engine that makes it is here."""
    try:
        from florence_edge.backends.ort import OrtBackend
    except BackendError:
        logger.warning(
            "%s is left out: making it needs ONNX Runtime (florence-edge[cpu]).", REFERENCE
        )
        return
    bundle = Bundle.load(folder)
    write_reference(bundle, OrtBackend(bundle), folder)


def _verify(bundle: Path, checkpoint: Checkpoint, image: ImageProcessing, *, strict: bool) -> None:
    """Compare with transformers and put what was found into the bundle."""
    from .verify import verify  # needs an engine, and torch

    found = {"against_reference": verify(bundle, checkpoint, image, strict=strict)}
    (bundle / FIDELITY).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _facts(
    model: str,
    checkpoint: Checkpoint,
    size: ModelSize,
    precision: str,
    defaults: GenerationDefaults,
    image: ImageProcessing,
) -> dict[str, Any]:
    """The manifest, but for the list of files."""
    generation: Generation = defaults.generation
    return {
        "contract": contract.CONTRACT_VERSION,
        "producer": f"{PRODUCER} {__version__}",
        "model": {
            "name": model,
            "layout": checkpoint.config.layout.value,
            "sha256": checkpoint.sha256(),
        },
        "precision": precision,
        "target": "any",
        "floats": "float16" if precision == "fp16" else "float32",
        "size": asdict(size),
        "image": {"mean": list(image.mean), "std": list(image.std), "resample": "bicubic"},
        "generation": asdict(generation),
        "generation_from": list(defaults.sources),
    }
