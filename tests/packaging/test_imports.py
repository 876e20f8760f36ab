import json
import subprocess
import sys

import florence_edge

HEAVY = [
    *("torch", "transformers", "onnx", "onnxscript", "onnx_ir", "onnxruntime"),
    *("supervision", "scipy", "cv2", "matplotlib", "safetensors", "huggingface_hub"),
]


def modules_after(statement: str) -> set[str]:
    command = f"import sys, json; {statement}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", command], check=True, capture_output=True, text=True
    )
    return set(json.loads(done.stdout))


def test_importing_the_runtime_loads_nothing_heavy() -> None:
    assert sorted(modules_after("import florence_edge") & set(HEAVY)) == []


def test_importing_the_command_loads_nothing_heavy() -> None:
    assert sorted(modules_after("import florence_edge.cli") & set(HEAVY)) == []


def test_running_on_the_cpu_needs_onnxruntime_and_nothing_heavier() -> None:
    loaded = modules_after("import florence_edge.backends.ort")
    assert sorted(loaded & set(HEAVY) - {"onnxruntime"}) == []


def test_the_runtime_imports_none_of_its_siblings() -> None:
    siblings = {name for name in modules_after("import florence_edge") if "florence_edge_" in name}
    assert siblings == set()


def test_the_public_names_are_these() -> None:
    assert florence_edge.__all__ == [
        "TASKS",
        "BackendError",
        "BundleError",
        "Florence2",
        "FlorenceEdgeError",
        "GenerationOptions",
        "ImageError",
        "Region",
        "RequestError",
        "Result",
        "SourceError",
        "Task",
        "View",
        "Watching",
        "__version__",
        "parse",
    ]
    assert all(hasattr(florence_edge, name) for name in florence_edge.__all__)
