"""`export`: a checkpoint in, a bundle out."""

import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import onnx_ir as ir

from florence_edge.backends.ort import open_ort
from florence_edge.bundle import FIDELITY, PRECISIONS, Bundle
from florence_edge.errors import MissingPackageError, RequestError
from florence_edge.extras import pip_install
from florence_edge.selftest import REFERENCE, write_reference
from florence_edge.tasks import Task
from florence_edge_calibration.quantization.recipe import Recipe, is_integer

from .bundle_writer import (
    BundleFormat,
    BundleSource,
    check_target,
    kept_if_refused,
    new_folder,
    save_bundle,
    write_manifest,
)
from .checkpoint.adapters import WeightedAdapter, merge_adapters, tokenizer_folder
from .checkpoint.config import model_size
from .checkpoint.defaults import read_generation, read_image_processing
from .checkpoint.loader import read_checkpoint
from .checkpoint.tokenizer import complete_tokenizer
from .float16 import write_float16
from .graphs.build import build_cuda_graphs, build_graphs, build_tensorrt_decoders
from .graphs.weights import GraphWeights
from .quantization.export import QuantizationOptions, check_quantization_options, write_quantized
from .smoke_test import check_decoders, smoke_test
from .verify.reference import check_installed

logger = logging.getLogger(__name__)

_FLOAT32 = BundleFormat("fp32")
_SHOWN = 8  # tensors in a warning


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What to make of a checkpoint; `image_size` None means the checkpoint's own.

    `tensorrt_decoders` adds those that TensorRT runs instead of the portable one, if it can run
    the bundle, and in float16 the graphs for ONNX Runtime's CUDA provider; they share its weights.
    """

    precision: str = "fp32"
    image_size: int | None = None
    verify: bool = False
    keep_failed: bool = False
    """Whether a bundle that `verify` refuses is kept, as OUTPUT.failed."""
    overwrite: bool = False
    quantization: QuantizationOptions = field(default_factory=QuantizationOptions)
    tensorrt_decoders: bool = True
    adapters: tuple[WeightedAdapter, ...] = ()
    tasks: tuple[Task, ...] = ()
    """The checkpoint's own, beside the 15 (`task_file.read_tasks`)."""


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
    failed = output.with_name(f"{output.name}.failed")
    if options.keep_failed:
        check_target(failed, overwrite=options.overwrite)
    with new_folder(output, overwrite=options.overwrite) as temporary:
        source = read_source(model, folder, options)
        logger.info("It generates with %s", source.defaults.summary())
        if is_integer(options.precision):
            with float_bundle(source, temporary) as floats:
                write_quantized(floats, source, temporary, options.quantization, options.precision)
        elif options.precision == "fp16":
            with float_bundle(source, temporary) as floats:
                write_float16(floats, source, temporary)
        else:
            save_bundle(temporary, source, _FLOAT32, _float_graphs(source))
        logger.info("Writing %s", output)
        _run_once(temporary)
        if options.verify:
            with kept_if_refused(temporary, failed if options.keep_failed else None):
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
    if is_integer(options.precision):
        check_quantization_options(model, options.quantization, options.precision)
    if options.precision == "fp16" and find_spec("onnxruntime") is None:
        raise MissingPackageError(
            "--precision fp16 runs the graphs to find what overflows, with ONNX Runtime, which is "
            "not installed. Install it with: "
            f"{pip_install('cpu')}"
        )
    if options.keep_failed and not options.verify:
        raise RequestError("--keep-failed is for a bundle that --verify refuses. Give both.")
    if options.verify:
        if options.adapters:
            raise RequestError(
                "--verify compares with what transformers loads from the checkpoint's folder, "
                "which has no --adapter in it. Leave one of them out."
            )
        check_installed()


def read_source(model: str, folder: Path, options: ExportOptions) -> BundleSource:
    """Read a checkpoint and check it, for the image size of the options.

    Raises:
        BundleError: it cannot be used.
        RequestError: it takes no pictures of that size.
    """
    checkpoint = merge_adapters(read_checkpoint(folder), options.adapters)
    image = read_image_processing(folder)
    side = image.size if options.image_size is None else options.image_size
    size = model_size(checkpoint.config, side)
    return BundleSource(
        model=model,
        checkpoint=checkpoint,
        size=size,
        image=image,
        tokenizer=complete_tokenizer(
            tokenizer_folder(folder, options.adapters), checkpoint.config.text.vocab_size
        ),
        defaults=read_generation(folder, checkpoint.config),
        tensorrt_decoders=options.tensorrt_decoders and _for_tensorrt(options),
        cuda_graphs=options.tensorrt_decoders and options.precision == "fp16",
        tasks=options.tasks,
    )


def _for_tensorrt(options: ExportOptions) -> bool:
    """Whether TensorRT runs what is made."""
    if not is_integer(options.precision):
        return True
    return Recipe(target=options.quantization.target, precision=options.precision).for_tensorrt


def _float_graphs(source: BundleSource) -> dict[str, ir.Model]:
    """The three graphs in float32, and those for one engine if they are wanted."""
    side = source.size.image_size
    logger.info("Building the graphs for %d x %d pixels", side, side)
    weights = GraphWeights(source.checkpoint, side, source.image.mean, source.image.std)
    config, size = source.checkpoint.config, source.size
    graphs = build_graphs(config, size, weights)
    if source.tensorrt_decoders:
        graphs |= build_tensorrt_decoders(config, size, weights)
    if source.cuda_graphs:
        graphs |= build_cuda_graphs(config, size, weights)
    if unused := weights.unused({name for graph in graphs.values() for name in _parameters(graph)}):
        logger.warning(
            "The checkpoint has tensors that Florence-2 has no place for, and transformers would "
            "not use either: %s. If one of them matters, this is another architecture.",
            ", ".join(unused[:_SHOWN]) + (f" ({len(unused)} in all)" if unused[_SHOWN:] else ""),
        )
    return graphs


def _parameters(model: ir.Model) -> list[str]:
    return [str(name) for name in model.graph.initializers]


@contextmanager
def float_bundle(source: BundleSource, folder: Path) -> Iterator[Bundle]:
    """The float32 bundle, which lies beside the one that grows while it is needed."""
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}-float-", dir=folder.parent) as scratch:
        yield save_bundle(Path(scratch), source, _FLOAT32, _float_graphs(source))


def _run_once(folder: Path) -> None:
    """Run the graphs, and put reference.npz into the bundle, if the engine for it is installed.

    Raises:
        BundleError: what comes out is not finite.
    """
    bundle = Bundle.load(folder)
    try:
        backend = open_ort(bundle)
    except MissingPackageError:
        logger.warning(
            "The bundle was not run, and %s is left out: that needs ONNX Runtime. Install it with: "
            "%s",
            REFERENCE,
            pip_install("cpu"),
        )
        return
    seen = bundle.precision == "fp16"  # it was run, and compared, while it was made
    if not seen:
        smoke_test(bundle, backend)
    write_reference(bundle, backend, folder)
    backend.close()  # the weights are large: one engine with them at a time
    check_decoders(bundle)


def _verify(folder: Path, source: BundleSource, *, strict: bool) -> None:
    """Compare with transformers, and put the result into the bundle's fidelity.json."""
    from .verify.compare import verify  # imports torch

    path = folder / FIDELITY
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    content["against_reference"] = verify(folder, source.checkpoint, source.image, strict=strict)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
