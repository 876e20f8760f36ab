"""Checks of a bundle: its files, its answers, its TensorRT engines."""

import shlex
from contextlib import closing
from pathlib import Path

from florence_edge.backends.open import open_engine
from florence_edge.bundle import Bundle
from florence_edge.devices import Device
from florence_edge.engine_failures import SEE_DOCTOR
from florence_edge.errors import BackendError, BundleError, FlorenceEdgeError
from florence_edge.extras import pip_install
from florence_edge.selftest import self_test
from florence_edge.tensorrt.find import engines_root, find_engines
from florence_edge.tensorrt.manifest import (
    ENGINE_MANIFEST,
    EngineManifest,
    TargetDevice,
    read_manifest,
)

from .findings import Finding, fail, ok, warn

_CLOSE = 0.05  # log-probability, and feature values of size one; what fp16 may lose
_NO_GPU = "The checks gpu and tensorrt say what is missing; without a GPU, take --device cpu."


def load_bundle(folder: Path, *, quick: bool = False) -> tuple[Bundle | None, Finding]:
    """Load a bundle and, unless it has to be quick, compare its weights with their hash."""
    try:
        bundle = Bundle.load(folder)
        if not quick:
            bundle.check_content()
    except (BundleError, OSError) as error:
        return None, fail("bundle", str(error), _new_bundle(folder))
    target = "any engine" if bundle.target == "any" else bundle.target
    found = f"{bundle.model}, {bundle.precision}, for {target}, {bundle_bytes(bundle) / 1e6:.0f} MB"
    state = "the weights were not hashed" if quick else "every file as it was exported"
    return bundle, ok("bundle", f"{found}; {state}")


def bundle_bytes(bundle: Bundle) -> int:
    """Size of what was exported."""
    return sum(stored.bytes for stored in bundle.files.values())


def check_answers(bundle: Bundle, device: Device, engine_dir: Path | None = None) -> Finding:
    """Compute what travels along with the bundle, and compare with the exporter's values."""
    check = f"self-test {device}"
    try:
        bundle.check_engine(device.family)
    except BackendError:
        return ok(check, f"not done: the bundle is for {bundle.target}")
    try:
        # The weights were hashed when the bundle was loaded, unless it had to be quick.
        verify = device.family == "tensorrt"
        opened = open_engine(bundle, device, threads=1, engine_dir=engine_dir, verify=verify)
        with closing(opened.backend) as backend:
            errors = self_test(bundle, backend)
    except BundleError as error:
        return fail(check, *_with_fix(error, _new_bundle(bundle.folder)))
    except FlorenceEdgeError as error:
        return fail(check, *_with_fix(error, _engine_fix(bundle, device)))
    return judge_answers(errors, device)


def check_int8_products(bundle: Bundle, *, saturate: bool) -> Finding | None:
    """Whether a bundle computes the same where int8 products lose what exceeds 16 bits.

    Those of int8 have such products, and those of int4 in the vision encoder. Their weights leave
    no room for that, unless they are of an older export: those ONNX Runtime multiplies in slower
    ways (`keep_products_exact` in its backend).
    """
    multiplies = bundle.precision in ("int8", "int4") and bundle.target != "gpu"
    if not multiplies:  # those for GPUs do on a GPU alone
        return None
    check = "int8 products"
    if not bundle.may_saturate():
        return ok(check, "exact on every processor")
    if not saturate:
        return ok(check, "exact on this processor, but not on x86-64 without VNNI")
    target = "cpu" if bundle.target == "cpu" else "portable"
    return warn(
        check,
        "This processor adds two of them in 16 bits, where those of this older export saturate "
        "(x86-64 without VNNI). ONNX Runtime is told to keep them exact, which is slower; "
        "OpenVINO's answers can be less accurate.",
        f"florence-export CHECKPOINT --precision int8 --target {target} --calibration-images DIR "
        "--output NEW",
    )


def judge_answers(errors: dict[str, float], device: Device) -> Finding:
    """Whether the largest errors are small."""
    found = ", ".join(f"{name} within {error:.1e}" for name, error in errors.items())
    if not all(error <= _CLOSE for error in errors.values()):  # nor does a NaN pass
        return warn(
            f"self-test {device}",
            f"{found}: further from the exporter's values than {_CLOSE}.",
            "Compare answers on pictures: florence-bench accuracy",
        )
    return ok(f"self-test {device}", found)


def check_engines(
    bundle: Bundle,
    device: TargetDevice | FlorenceEdgeError,
    engine_dir: Path | None = None,
    *,
    needed: bool = False,
) -> list[Finding]:
    """What engines there are; the last finding says whether some fit this GPU.

    `device` may be the reason why there is none. Where only engines may answer (`needed`), it is a
    failure that none fits.
    """
    bad = fail if needed else warn
    build = f"florence-build {_quoted(bundle.folder)}"
    root = engines_root(bundle, engine_dir)
    folders = sorted(path.parent for path in root.glob(f"[!.]*/{ENGINE_MANIFEST}"))
    findings = [_describe(folder, build) for folder in folders]
    if isinstance(device, FlorenceEdgeError) and needed:
        return [*findings, fail("engines", *_with_fix(device, _NO_GPU))]
    if isinstance(device, FlorenceEdgeError):
        return findings or [ok("engines", f"none in {root}; there is no GPU to build them for")]
    try:
        engines = find_engines(bundle, device, engine_dir=engine_dir)
    except BackendError as error:
        return [*findings, bad("engines", *_with_fix(error, build))]
    return [*findings, ok("engines", f"{engines.folder.name} fits this device")]


def _describe(folder: Path, build: str) -> Finding:
    try:
        manifest = read_manifest(folder)
    except BackendError as error:
        return warn("engines", *_with_fix(error, f"rm -r {_quoted(folder)} && {build}"))
    return ok("engines", f"{folder.name}: {built_for(manifest)}")


def built_for(manifest: EngineManifest) -> str:
    """The device and calls of engines in one line."""
    device, options = manifest.device, manifest.options
    where = f"{device.gpu or 'any GPU'} (SM {device.compute_capability}), {device.flavour}"
    calls = f"batch {options.batch}, {options.beams} beams, {options.max_new_tokens} tokens"
    return f"{where} {device.tensorrt}, {manifest.precision}; {calls}"


def _new_bundle(folder: Path) -> str:
    """How to have a bundle where none is, or one that is damaged: florence-export keeps that."""
    if folder.exists():
        return "Copy the bundle again, or: florence-export CHECKPOINT --output NEW"
    return f"florence-export CHECKPOINT --output {_quoted(folder)}"


def _with_fix(error: Exception, command: str) -> tuple[str, str]:
    """What went wrong, and the command that the error names, or else this one."""
    problem, _, named = str(error).replace(f" {SEE_DOCTOR}", "").partition(" Run: ")
    return problem, named or command


def _engine_fix(bundle: Bundle, device: Device) -> str:
    if device.family == "tensorrt":
        return f"florence-build {_quoted(bundle.folder)}"
    return f"{pip_install('cpu')} --force-reinstall"


def _quoted(folder: Path) -> str:
    return shlex.quote(str(folder))
