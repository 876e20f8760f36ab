"""What importing costs: no engine, no camera, no command, nothing left to run at exit."""

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

import florence_edge

HEAVY = [
    *("torch", "transformers", "onnx", "onnxscript", "onnx_ir", "onnxruntime", "openvino"),
    *("tensorrt", "cuda", "supervision", "scipy", "cv2", "av", "gi", "matplotlib", "pandas"),
    *("safetensors", "huggingface_hub", "trackers"),
]
# Graphs, their passes and the miniature's training are subclasses of what these define; all else
# is imported where it is used.
WRITTEN_IN = ["onnx", "onnxscript", "onnx_ir", "ml_dtypes", "safetensors", "torch", "transformers"]
ABSENT = [
    *("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "cuda", "cupy", "pycuda"),
    *("supervision", "cv2", "av", "gi", "trackers", "matplotlib", "rosbags", "rclpy", "pynvml"),
    *("pandas", "polygraphy", "pycocotools", "pycocoevalcap"),
    *("pyarrow", "ray"),  # fsspec and yaml are huggingface_hub's, too
]
PACKAGES = [
    "florence_edge",
    "florence_edge_jetson",
    "florence_edge_calibration",
    "florence_edge_export",
    "florence_edge_benchmarks",
    "florence_edge_label",
]


def printed_by(statements: str) -> object:
    """What a fresh interpreter prints as JSON; its warnings are errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", statements],
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout)


def modules_after(statement: str) -> set[str]:
    found = printed_by(f"import sys, json; {statement}; print(json.dumps(sorted(sys.modules)))")
    assert isinstance(found, list)
    return set(found)


def below(names: set[str], *packages: str) -> Iterator[str]:
    """The names that are these packages or lie in them."""
    return (name for name in names if name.startswith(tuple(f"{one}." for one in packages)))


def test_importing_the_runtime_loads_nothing_heavy() -> None:
    assert sorted(modules_after("import florence_edge") & set(HEAVY)) == []


def test_importing_the_runtime_loads_no_camera_and_no_command() -> None:
    loaded = modules_after("import florence_edge")
    assert not loaded & {"argparse", "florence_edge.command"}
    assert list(below(loaded, "florence_edge.video")) == []
    assert list(below(loaded, "florence_edge.cli")) == []


def test_importing_the_runtime_loads_no_engine() -> None:
    loaded = set(below(modules_after("import florence_edge"), "florence_edge.backends"))
    engines = {"ort", "ort_cuda", "trt", "openvino", "gpu", "gpu_decoder"}
    assert {name.rpartition(".")[2] for name in loaded} & engines == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_registers_nothing_at_exit(package: str) -> None:
    """Of ours: what the libraries register is theirs."""
    registered = printed_by(
        "import atexit, json, traceback\n"
        "found, register = [], atexit.register\n"
        "def noted(function, *rest, **named):\n"
        "    callers = [frame.filename for frame in traceback.extract_stack()[:-1]]\n"
        "    found.append(callers[-1])\n"
        "    return register(function, *rest, **named)\n"
        "atexit.register = noted\n"
        f"import {package}\n"
        "print(json.dumps([name for name in found if 'florence_edge' in name]))"
    )
    assert registered == []


def test_importing_the_command_loads_nothing_heavy() -> None:
    assert sorted(modules_after("import florence_edge.cli.main") & set(HEAVY)) == []


def test_running_on_the_cpu_needs_onnxruntime_and_nothing_heavier() -> None:
    loaded = modules_after("import florence_edge.backends.ort")
    assert sorted(loaded & set(HEAVY) - {"onnxruntime"}) == []


def test_the_runtime_imports_none_of_its_siblings() -> None:
    siblings = {name for name in modules_after("import florence_edge") if "florence_edge_" in name}
    assert siblings == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_can_be_imported_whatever_is_missing(package: str) -> None:
    """A missing engine is an error where it is used: pydoc and mkdocstrings read every module."""
    failed = printed_by(
        "import importlib, json, pkgutil, sys\n"
        f"sys.modules.update(dict.fromkeys({ABSENT}))\n"
        f"import {package} as whole\n"
        "failed = []\n"
        "for module in pkgutil.walk_packages(whole.__path__, whole.__name__ + '.'):\n"
        "    if module.name.endswith('__main__'):\n"
        "        continue\n"
        "    try:\n"
        "        importlib.import_module(module.name)\n"
        "    except ImportError as error:\n"
        f"        if (error.name or '').partition('.')[0] not in {WRITTEN_IN}:\n"
        "            failed.append(f'{module.name}: {error}')\n"
        "print(json.dumps(failed))"
    )
    assert failed == []


def test_the_public_names_are_sorted_and_there() -> None:
    """ruff sorts them: constants, then classes, then functions."""
    names = florence_edge.__all__
    assert len(set(names)) == len(names)
    assert [name for name in names if not hasattr(florence_edge, name)] == []


def test_what_everybody_needs_is_public() -> None:
    """The rest of the list is pinned by the API reference of the documentation."""
    assert set(florence_edge.__all__) >= {
        *("Florence2", "EncodedImage", "GenerationOptions", "Result", "Region", "Task", "TASKS"),
        *("run_many", "Answered", "watch", "Watching", "Watched", "CameraMode", "parse"),
        *("FlorenceEdgeError", "BackendError", "BundleError", "ImageError", "RequestError"),
        *("SourceError", "MissingPackageError", "Convention", "Bundle", "__version__"),
    }
