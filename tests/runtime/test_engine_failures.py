"""An engine that is absent, one that does not load, and one that found no memory or threads."""

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from florence_edge import BackendError, MissingPackageError
from florence_edge.backends.openvino import _import_openvino
from florence_edge.backends.ort_package import import_onnxruntime
from florence_edge.engine_failures import engine_failure, not_imported

ENGINES: dict[str, Callable[[], object]] = {
    "onnxruntime": import_onnxruntime,
    "openvino": _import_openvino,
}
NO_MEMORY = "There is not enough memory"
NO_THREADS = "The system starts no more threads here"


@pytest.mark.parametrize("package", ENGINES)
@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (ImportError("lib.so: failed to map segment from shared object"), NO_MEMORY),
        (ImportError("lib.so: cannot allocate memory in static TLS block"), NO_MEMORY),
        (MemoryError(), NO_MEMORY),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), NO_MEMORY),
        (RuntimeError("can't start new thread"), NO_THREADS),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), NO_THREADS),
        (ImportError("lib.so: undefined symbol: x"), "is installed, but does not load: lib"),
        (ModuleNotFoundError("No module named 'numpy'", name="numpy"), "does not load: No module"),
        (RuntimeError("no such instruction"), "is installed, but does not load"),
    ],
)
def test_an_engine_that_does_not_load_is_not_called_absent(
    monkeypatch: pytest.MonkeyPatch, package: str, failure: Exception, message: str
) -> None:
    class Finder:
        def find_spec(self, name: str, *_: object) -> None:
            if name == package:
                raise failure

    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(BackendError, match=message) as raised:
        ENGINES[package]()
    assert "not installed" not in str(raised.value)
    assert raised.value.__cause__ is failure


@pytest.mark.parametrize("package", ENGINES)
def test_an_engine_that_is_absent_is_called_so(
    monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=r"is not installed\. Install it with: pip"):
        ENGINES[package]()


def test_what_an_engine_says_without_words_has_its_name() -> None:
    assert str(not_imported(MemoryError(), "x", "absent")).startswith(
        "The package x was not loaded: MemoryError. There is not enough memory"
    )
    assert str(engine_failure("It failed", KeyError("a."))) == "It failed: 'a.'."


@pytest.mark.parametrize("device", ["cpu", "openvino"])
@pytest.mark.parametrize("megabytes", [20, 250])
def test_a_real_shortage_of_memory_is_one_honest_sentence(
    tiny_bundle: Path, device: str, megabytes: int
) -> None:
    pytest.importorskip({"cpu": "onnxruntime"}.get(device, device))
    script = f"""
import resource, sys
from pathlib import Path
from PIL import Image
from florence_edge import Florence2
from florence_edge.command import run_command

def run():
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + {megabytes} * 1_000_000
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with Florence2.load({str(tiny_bundle)!r}, {device!r}, threads=1) as model:
        model.encode(Image.new("RGB", (8, 8)))

sys.exit(run_command("test", run))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode == 0:
        return  # it was enough
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1, done.stderr
    assert last.startswith("test: ")
    assert "memory" in last
    assert "not installed" not in last
    assert "Traceback" not in done.stderr
