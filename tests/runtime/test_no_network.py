"""Importing, loading and running open no connection, ask no name server, and write nothing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Python's own way to the network is refused; what native code does, strace sees.
SCRIPT = """
import sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.gethostbyname"):
        raise SystemExit(f"{event}: {arguments}")
    if event in ("subprocess.Popen", "os.system", "os.posix_spawn", "os.fork"):
        raise SystemExit(f"{event}: {arguments}")

sys.addaudithook(refuse)
from PIL import Image
from florence_edge import Florence2, GenerationOptions

with Florence2.load(sys.argv[1], sys.argv[2], threads=1) as model:
    for _ in range(3):
        found = model.run(Image.new("RGB", (40, 30)), "OD", options=GenerationOptions(num_beams=1))
print(type(found).__name__)
"""


def environment(home: Path) -> dict[str, str]:
    """As a user has it who said nothing about telemetry; HOME and its caches are empty."""
    silent = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")
    kept = {name: value for name, value in os.environ.items() if name not in silent}
    return {**kept, "HOME": str(home), "TMPDIR": str(home / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_no_connection_is_opened_and_nothing_written(
    fresh_bundle: Path, tmp_path: Path, device: str
) -> None:
    pytest.importorskip({"cpu": "onnxruntime"}.get(device, device))
    home = tmp_path / "home"
    (home / "tmp").mkdir(parents=True)
    before = sorted(path for path in tmp_path.rglob("*"))
    command = [sys.executable, "-c", SCRIPT, str(fresh_bundle), device]
    trace = tmp_path / "trace"
    if shutil.which("strace"):
        calls = "connect,sendto,sendmsg,sendmmsg,bind,listen,open,openat,creat,mkdir,mkdirat,rename"
        command = ["strace", "-f", "-qq", "-o", str(trace), "-e", f"trace={calls}", *command]
    done = subprocess.run(
        command,
        env=environment(home),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "Result"), done.stderr
    found = trace.read_text(errors="replace") if trace.exists() else ""
    trace.unlink(missing_ok=True)
    assert sorted(path for path in tmp_path.rglob("*")) == before
    _check(found)


def _check(trace: str) -> None:
    """No network, and no file opened for writing but what the kernel and the terminal offer."""
    network = [line for line in trace.splitlines() if "AF_INET" in line or "resolv.conf" in line]
    assert not network
    harmless = ("/dev/", "/proc/", "/sys/", "ENOENT", "EACCES", "/dev/shm/")
    written = [
        line
        for line in trace.splitlines()
        if ("O_WRONLY" in line or "O_RDWR" in line or "O_CREAT" in line or " mkdir" in line)
        and not any(word in line for word in harmless)
    ]
    assert not written


@pytest.mark.parametrize(("setting", "expected"), [(None, "1"), ("0", "0")])
def test_telemetry_is_off_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, setting: str | None, expected: str
) -> None:
    from florence_edge.backends.ort_package import import_onnxruntime

    pytest.importorskip("onnxruntime")
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    if setting is not None:
        monkeypatch.setenv("ORT_DISABLE_TELEMETRY", setting)
    import_onnxruntime()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == expected


@pytest.mark.parametrize("wanted", [False, True])
def test_openvino_asks_no_analytics_service_unless_its_package_was_imported_before(
    wanted: bool,
) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("openvino_telemetry")
    before = "import openvino_telemetry" if wanted else ""
    script = f"""
import sys
{before}
from florence_edge.backends.openvino import _import_openvino
before = sys.modules.get("openvino_telemetry")
sys.modules.setdefault("openvino", type(sys)("openvino"))  # its own import would ask at once
_import_openvino()
print(sys.modules["openvino_telemetry"] is not None)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == str(wanted), done.stderr
