"""Checks of a bundle: its files, its answers, its TensorRT engines."""

import shlex
from pathlib import Path

from florence_edge.backends import open_backend
from florence_edge.bundle import Bundle
from florence_edge.engines import Device, engines_root, find_engines
from florence_edge.engines.record import ENGINE_MANIFEST, EngineRecord, read_record
from florence_edge.errors import BackendError, BundleError
from florence_edge.selftest import self_test

from .finding import Finding, fail, ok, warn

_CLOSE = 0.05  # log-probability, and feature values of size one; what fp16 may lose


def load_bundle(folder: Path, *, quick: bool = False) -> tuple[Bundle | None, Finding]:
    """Load a bundle and, unless it has to be quick, compare its weights with their hash."""
    try:
        bundle = Bundle.load(folder)
        if not quick:
            bundle.check_content()
    except (BundleError, OSError) as error:
        return None, fail("bundle", str(error), f"florence-export MODEL --output {_quoted(folder)}")
    target = "any engine" if bundle.target == "any" else bundle.target
    found = f"{bundle.model}, {bundle.precision}, for {target}, {bundle_bytes(bundle) / 1e6:.0f} MB"
    state = "the weights were not hashed" if quick else "every file as it was exported"
    return bundle, ok("bundle", f"{found}; {state}")


def bundle_bytes(bundle: Bundle) -> int:
    """Size of what was exported."""
    return sum(stored.bytes for stored in bundle.files.values())


def check_answers(bundle: Bundle, device: str, engine_dir: Path | None = None) -> Finding:
    """Compute what travels along with the bundle, and compare with what the exporter got."""
    try:
        bundle.check_engine(device.removesuffix("-rtx"))
    except BackendError:
        return ok(f"self-test {device}", f"not done: the bundle is for {bundle.target}")
    try:
        errors = self_test(bundle, open_backend(bundle, device, threads=1, engine_dir=engine_dir))
    except (BackendError, BundleError) as error:
        return fail(f"self-test {device}", *_mended(error, _engine_mend(bundle, device)))
    return judge_answers(errors, device)


def judge_answers(errors: dict[str, float], device: str) -> Finding:
    """Whether the largest errors are small."""
    found = ", ".join(f"{name} within {error:.1e}" for name, error in errors.items())
    if max(errors.values()) > _CLOSE:
        return warn(
            f"self-test {device}",
            f"{found}: further from the exporter's values than {_CLOSE}.",
            "Compare answers on pictures: florence-bench accuracy",
        )
    return ok(f"self-test {device}", found)


def check_engines(
    bundle: Bundle,
    device: Device | BackendError,
    engine_dir: Path | None = None,
    *,
    needed: bool = False,
) -> list[Finding]:
    """What engines lie there; the last finding says whether some fit this GPU.

    `device` may be the reason why there is none. Where nothing but engines shall answer (`needed`),
    it is a failure that none fits.
    """
    bad = fail if needed else warn
    build = f"florence-build {_quoted(bundle.folder)}"
    root = engines_root(bundle, engine_dir)
    folders = sorted(path.parent for path in root.glob(f"[!.]*/{ENGINE_MANIFEST}"))
    findings = [_describe(folder, build) for folder in folders]
    if isinstance(device, BackendError) and needed:
        return [*findings, fail("engines", *_mended(device, "florence-doctor"))]
    if isinstance(device, BackendError):
        return findings or [ok("engines", f"none in {root}; there is no GPU to build them for")]
    try:
        engines = find_engines(bundle, device, engine_dir=engine_dir)
    except BackendError as error:
        return [*findings, bad("engines", *_mended(error, build))]
    return [*findings, ok("engines", f"{engines.folder.name} fits this device")]


def _describe(folder: Path, build: str) -> Finding:
    try:
        record = read_record(folder)
    except BackendError as error:
        return warn("engines", *_mended(error, f"rm -r {_quoted(folder)} && {build}"))
    return ok("engines", f"{folder.name}: {built_for(record)}")


def built_for(record: EngineRecord) -> str:
    """The device and calls of engines in one line."""
    device, options = record.device, record.options
    where = f"{device.gpu or 'any GPU'} (SM {device.compute_capability}), {device.flavour}"
    calls = f"batch {options.batch}, {options.beams} beams, {options.max_new_tokens} tokens"
    return f"{where} {device.tensorrt}, {record.precision}; {calls}"


def _mended(error: Exception, command: str) -> tuple[str, str]:
    """What went wrong, and the command that the error names, or else this one."""
    problem, _, named = str(error).partition(" Run: ")
    return problem, named or command


def _engine_mend(bundle: Bundle, device: str) -> str:
    if device.startswith("tensorrt"):
        return f"florence-build {_quoted(bundle.folder)}"
    return "pip install --force-reinstall 'florence-edge[cpu]'"


def _quoted(folder: Path) -> str:
    return shlex.quote(str(folder))
