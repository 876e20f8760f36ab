import json
import subprocess
import sys

HEAVY = {
    *("torch", "transformers", "onnx", "onnxscript", "onnx_ir", "onnxruntime", "safetensors"),
    *("pycocotools", "pycocoevalcap", "matplotlib", "ml_dtypes"),
}


def test_the_command_imports_what_it_needs_only_where_it_needs_it() -> None:
    """A report is made where neither an engine nor the exporter is installed."""
    program = (
        "import sys, json; import florence_edge_benchmarks.cli; print(json.dumps([*sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert sorted(set(json.loads(done.stdout)) & HEAVY) == []
