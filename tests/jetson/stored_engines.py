"""Engines for a device, as florence-build leaves them beside a bundle."""

from dataclasses import replace
from pathlib import Path

from florence_edge.bundle import Bundle
from florence_edge.tensorrt.manifest import (
    LAYOUT_VERSION,
    EngineManifest,
    TargetDevice,
    plan_name,
    sources,
    write_manifest,
)
from florence_edge.tensorrt.profiles import EngineOptions

from ..helpers.engines import ORIN

DEVICE = replace(ORIN, multiprocessors=8)


def store_engines(bundle: Bundle, device: TargetDevice, name: str = "0123456789abcdef") -> Path:
    """Engines that are written down and hold nothing."""
    folder = bundle.folder / "engines" / name
    folder.mkdir(parents=True)
    plans = {}
    for graph in ("vision_encoder", "text_encoder", "decoder"):
        (folder / plan_name(graph)).write_bytes(b"plan")
        plans[plan_name(graph)] = {"bytes": 4, "sha256": ""}
    record = EngineManifest(
        layout=LAYOUT_VERSION,
        producer="florence-edge",
        model="tiny",
        precision="fp32",
        device=device,
        options=EngineOptions(),
        sources=sources(bundle),
        plans=plans,  # type: ignore[arg-type]
    )
    write_manifest(folder, record)
    return folder
