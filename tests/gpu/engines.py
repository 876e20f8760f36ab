"""TensorRT where it is at hand: engines of base in float16, built here, and what they bring.

    python -m gpu.engines --figures FILE --work DIR [--architecture base]

The decoder that works in place is timed beside the portable one, where this TensorRT builds it.
Building takes minutes. There is no TensorRT for compute capability 9.0 without NVIDIA's own index.
"""

import sys
from pathlib import Path
from time import perf_counter

from florence_edge.tensorrt.driver import find_gpu
from florence_edge.tensorrt.install import find_tensorrt
from florence_edge_export.export import ExportOptions, export
from florence_edge_export.tensorrt_build.cli import main as build

from . import decode_steps, looks
from .figures import Figures
from .models import arguments, checkpoint, random_model

DECODERS: dict[str, list[str]] = {"in place": [], "portable": ["--portable-decoder"]}


def main() -> int:
    told = arguments(__doc__).parse_args()
    figures = Figures(told.figures, "tensorrt")
    with figures.attempt("engines"):
        tensorrt, gpu = find_tensorrt(), find_gpu()
        device = "tensorrt-rtx" if tensorrt.is_rtx else "tensorrt"
        figures.put("version", f"{device} {tensorrt.version}, {gpu.name}")
        bundle = in_place_bundle(told.architecture, told.work)
        for name, flags in DECODERS.items():
            engines = told.work / "engines" / name.replace(" ", "-")
            with figures.attempt(name):
                begun = perf_counter()
                if status := build([str(bundle), "--engine-dir", str(engines), *flags]):
                    raise RuntimeError(f"florence-build ended with {status}")
                figures.put(f"{name}, build s", round(perf_counter() - begun, 1))
                for measure in (decode_steps.measure_bundle, looks.measure_bundle):
                    measure(figures, f"{told.architecture} fp16, {name}", bundle, device, engines)
    return figures.exit_status


def in_place_bundle(architecture: str, work: Path) -> Path:
    """The float16 bundle with both decoders, exported if need be."""
    folder = work / architecture / "fp16-in-place"
    if not folder.exists():
        model = random_model(architecture, "fp16")
        of = checkpoint(architecture, work)
        folder.parent.mkdir(parents=True, exist_ok=True)
        export(model.name, of, folder, ExportOptions(precision="fp16"))
    return folder


if __name__ == "__main__":
    sys.exit(main())
