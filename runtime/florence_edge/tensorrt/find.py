"""TensorRT engines on disk: where they lie, what they were built for, and whether they fit here.

    engines/<fingerprint>/   in the bundle, or in --engine-dir
        engine.json          what the engines were built from, for what and by what; written last
        vision_encoder.plan  text_encoder.plan  decoder.plan
        timing.cache         what the builder measured; makes the next build quick

A plan runs on the kind of GPU and with the TensorRT that it was built with, and answers what its
profiles cover. `florence-build` writes such a folder; `find_engines` takes one for loading, or says
what differs and what to run.
"""

import logging
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from ..bundle import ENGINES, Bundle
from ..errors import BackendError
from .manifest import (
    ENGINE_MANIFEST,
    EngineManifest,
    TargetDevice,
    plan_name,
    read_manifest,
    sources,
)
from .profiles import EngineOptions, Profile, profiles

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Engines:
    """A set of three engines that fits this device."""

    bundle: Bundle
    folder: Path
    manifest: EngineManifest
    profiles: Mapping[str, tuple[Profile, ...]]  # of each graph, in the order of their index
    gpu: int = 0  # the number of the GPU they are for, here and now

    def plan(self, graph: str) -> Path:
        """Path of the engine of one of the three graphs."""
        return self.folder / plan_name(graph)

    def check(self, *, batch: int = 1, beams: int = 1, tokens: int = 1) -> None:
        """Refuse a request that is larger than what was built for.

        Raises:
            BackendError: what is too large, and the florence-build command that makes room.
        """
        needs = EngineOptions(batch=batch, beams=beams, max_new_tokens=tokens)
        missing = _shortages(self.manifest.options, needs)
        if missing:
            larger = _larger(self.manifest.options, needs)
            raise BackendError(
                f"The engines in {self.folder} are too small: {'; '.join(missing)}. "
                f"Run: {build_command(self.bundle, larger, self.folder.parent, gpu=self.gpu)}"
            )


def engines_root(bundle: Bundle, engine_dir: Path | None = None) -> Path:
    """The folder with one folder a fingerprint: `engine_dir`, or the bundle's own."""
    return engine_dir if engine_dir is not None else bundle.folder / ENGINES


def find_engines(
    bundle: Bundle,
    device: TargetDevice,
    *,
    engine_dir: Path | None = None,
    needs: EngineOptions | None = None,
    gpu: int = 0,
) -> Engines:
    """The engines for this bundle and device that serve `needs` with the least to spare.

    `gpu` is the device's number, for the command to run. `needs` is at least this batch, beams and
    tokens; None asks for the beams of the checkpoint, or else for one. Of what fits, the smallest
    batch and beams are best tuned; more tokens cost nothing, and in place is preferred.

    Raises:
        BackendError: nothing fits; it names what differs (GPU, compute capability, TensorRT, L4T,
            graphs, batch, beams or tokens) and the florence-build command to run.
    """
    default = EngineOptions(beams=bundle.generation.num_beams, max_new_tokens=1)
    requested = [needs] if needs else [default, replace(default, beams=1)]
    root = engines_root(bundle, engine_dir)
    found, unusable = _manifests(root)
    of_device = [entry for entry in found if not _differences(entry[1], bundle, device)]
    for request in requested:
        fitting = [entry for entry in of_device if not _shortages(entry[1].options, request)]
        if fitting:
            folder, manifest = min(fitting, key=lambda entry: _size(entry[1].options))
            return _opened(bundle, folder, manifest, device, gpu)
    for why in unusable:
        logger.warning("%s", why)
    command = build_command(bundle, _larger(EngineOptions(), requested[0]), root, gpu=gpu)
    raise BackendError(f"{_nothing_fits(bundle, device, root, found, requested[0])} Run: {command}")


def engines_of(bundle: Bundle, engine_dir: Path | None = None) -> Iterator[EngineManifest]:
    """The sets of engines that were built from this bundle's graphs, for whatever device."""
    for _, manifest in _manifests(engines_root(bundle, engine_dir))[0]:
        if not _changed(manifest, bundle):
            yield manifest


def build_command(bundle: Bundle, options: EngineOptions, root: Path, *, gpu: int = 0) -> str:
    """The florence-build command for these options and folder, without what is the default."""
    default = EngineOptions()
    flags = {
        "--batch": (options.batch, default.batch),
        "--beams": (options.beams, default.beams),
        "--max-new-tokens": (options.max_new_tokens, default.max_new_tokens),
        "--engine-dir": (root, engines_root(bundle)),
        "--gpu": (gpu, 0),
    }
    given = [(flag, str(value)) for flag, (value, ours) in flags.items() if value != ours]
    return shlex.join(["florence-build", str(bundle.folder), *chain.from_iterable(given)])


def _opened(
    bundle: Bundle, folder: Path, manifest: EngineManifest, device: TargetDevice, gpu: int
) -> Engines:
    if manifest.device.driver != device.driver:
        logger.info("%s was built with driver %s.", folder, manifest.device.driver)
    of_graphs = profiles(bundle.size, manifest.options)
    return Engines(bundle=bundle, folder=folder, manifest=manifest, profiles=of_graphs, gpu=gpu)


def _manifests(root: Path) -> tuple[list[tuple[Path, EngineManifest]], list[str]]:
    """The sets of engines in a folder, and why others there are none: these stay, and may."""
    found, unusable = [], []
    for path in sorted(root.glob(f"[!.]*/{ENGINE_MANIFEST}")):  # dotted: a build under way
        try:
            found.append((path.parent, read_manifest(path.parent)))
        except BackendError as error:  # damaged, or of another layout
            unusable.append(str(error))
    return found, unusable


def _differences(manifest: EngineManifest, bundle: Bundle, device: TargetDevice) -> list[str]:
    """Why this device may not load engines that were built elsewhere or from other graphs."""
    built, differences = manifest.device, []
    for name, was, now in (
        ("GPU", built.gpu, device.gpu),
        ("multiprocessors", built.multiprocessors, device.multiprocessors),
        ("compute capability", built.compute_capability, device.compute_capability),
        ("TensorRT", f"{built.flavour} {built.tensorrt}", f"{device.flavour} {device.tensorrt}"),
        ("L4T", built.l4t, device.l4t),
    ):
        ahead_of_time = built.gpu is None and name in ("GPU", "multiprocessors", "L4T")
        if was != now and not ahead_of_time:
            differences.append(f"{name} {was or 'none'}, here {now or 'none'}")
    if changed := _changed(manifest, bundle):
        differences.append(f"another {', '.join(changed)} than the bundle's")
    return differences


def _changed(manifest: EngineManifest, bundle: Bundle) -> list[str]:
    """The bundle's files that are not those which the engines were built from."""
    now_there = sources(bundle, manifest.options)
    return [name for name, hashed in now_there.items() if manifest.sources.get(name) != hashed]


def _shortages(built: EngineOptions, needs: EngineOptions) -> list[str]:
    return [
        f"{what} {had}, needed {needed}"
        for what, had, needed in (
            ("batch", built.batch, needs.batch),
            ("beams", built.beams, needs.beams),
            ("tokens", built.max_new_tokens, needs.max_new_tokens),
        )
        if had < needed
    ]


def _larger(built: EngineOptions, needs: EngineOptions) -> EngineOptions:
    return replace(
        built,
        batch=max(built.batch, needs.batch),
        beams=max(built.beams, needs.beams),
        max_new_tokens=max(built.max_new_tokens, needs.max_new_tokens),
    )


def _size(options: EngineOptions) -> tuple[int, int, int, bool]:
    return options.batch, options.beams, -options.max_new_tokens, not options.in_place


def _nothing_fits(
    bundle: Bundle,
    device: TargetDevice,
    root: Path,
    found: list[tuple[Path, EngineManifest]],
    needs: EngineOptions,
) -> str:
    """The message: the nearest set of engines, and how it differs."""
    if not found:
        return f"There are no TensorRT engines in {root}."

    def why(manifest: EngineManifest) -> list[str]:
        return [*_differences(manifest, bundle, device), *_shortages(manifest.options, needs)]

    folder, nearest = min(found, key=lambda entry: len(why(entry[1])))
    return (
        f"No TensorRT engines in {root} fit. The nearest ({folder.name}) were built for: "
        f"{'; '.join(why(nearest))}."
    )
