"""Optional packages: what each is imported as, and how to get it.

A test module that cannot be imported because one of them is missing is skipped, with the reason.
What is missing inside a test is the test's own business (`pytest.importorskip`).
"""

import pytest

_EXTRAS = {
    "cpu": ("onnxruntime",),
    "gpu": ("cuda", "nvidia"),
    "export": ("onnx", "onnx_ir", "onnxscript", "safetensors", "ml_dtypes", "huggingface_hub"),
    "verify": ("torch", "transformers"),
    "supervision": ("supervision", "scipy"),
    "camera": ("av",),
    "tracking": ("trackers", "cv2"),
    "bench": ("matplotlib", "pycocotools", "pycocoevalcap"),
    "tensorrt-cu13": ("tensorrt",),
    "openvino": ("openvino",),
    "debug": ("polygraphy",),
    "ros": ("rosbags", "ruamel"),
    "nvml": ("pynvml",),
    "serve": (
        "fastapi",
        "prometheus_client",
        "pydantic",
        "python_multipart",
        "starlette",
        "uvicorn",
    ),
    "mcp": ("mcp",),
    "label": ("pyarrow", "fsspec", "yaml"),
    "ray": ("ray",),
    "dev": (
        "deepstack_sdk",
        "openai",
        "pandas",
        "peft",
        "requests",
        "skimage",
        "tensorrt_rtx",
        "websockets",
    ),
}
_FROM_ELSEWHERE = {
    "cupy": "pip install cupy-cuda13x",
    "gi": "apt-get install python3-gi gir1.2-gst-plugins-base-1.0",
    "pycuda": "pip install pycuda",
    "rclpy": "it comes with ROS 2",
}

HOW_TO_GET = {
    **{
        name: f"pip install florence-edge[{extra}]"
        for extra, names in _EXTRAS.items()
        for name in names
    },
    **_FROM_ELSEWHERE,
}
"""By the name a package is imported as."""


_SKIPPED: dict[str, str] = {}  # by file: the package that it lacks


def missing_package(error: BaseException | None) -> str | None:
    """The optional package whose absence is behind an error at import, or None.

    A test module that takes something from one that was skipped lacks what that one lacks.
    """
    while error is not None:
        if isinstance(error, ImportError) and error.path in _SKIPPED:
            return _SKIPPED[error.path]
        if isinstance(error, ModuleNotFoundError) and error.name:
            package = error.name.partition(".")[0]
            return package if package in HOW_TO_GET else None
        error = error.__cause__ or getattr(error, "cause", None)
    return None


def skip_where_a_package_is_missing(
    collector: pytest.Collector, report: pytest.CollectReport
) -> None:
    """Turn a module's failed import into a skip, if all it lacks is an optional package."""
    call = getattr(report, "call", None)
    if report.outcome != "failed" or call is None or call.excinfo is None:
        return
    package = missing_package(call.excinfo.value)
    if package is not None:
        _SKIPPED[str(getattr(collector, "path", ""))] = package
        reason = f"Skipped: there is no package {package}: {HOW_TO_GET[package]}"
        report.outcome = "skipped"
        report.longrepr = (report.nodeid, 1, reason)
