"""Every name of TensorRT's that the code uses exists in 10.3, 11.4 and RTX 1.7, or is asked for.

Only RTX is installed here; of the others there are lists of names (shared/assets). The names in the
source are found by following variables that are called after what they hold.
"""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import florence_edge
from florence_edge_export import tensorrt_build

from ..helpers.assets import Asset

BUILDER = sorted(Path(tensorrt_build.__file__).parent.glob("*.py"))
RUNTIME = sorted(Path(florence_edge.__file__).parent.rglob("*.py"))
VERSIONS = ("tensorrt 10.3.0", "tensorrt 11.4.0", "tensorrt_rtx 1.7.1")

# What a variable of this name holds ("" is the module), and what a method gives.
HOLDS = {
    "trt": "",
    "module": "",
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "shapes": "IOptimizationProfile",
    "error": "ParserError",
    "cache": "ITimingCache",
    "runtime": "Runtime",
    "runtime_config": "IRuntimeConfig",
    "engine": "ICudaEngine",
    "_engine": "ICudaEngine",
    "context": "IExecutionContext",
}
GIVES = {"INetworkDefinition.get_input": "ITensor"}
SPEAKING = ("builder.py", "install.py", "trt.py")  # others use such names, too
SOURCES = [path for path in (*BUILDER, *RUNTIME) if path.name in SPEAKING]

# Reached with TensorRT-RTX alone: where it has a `ComputeCapability`, or `is_rtx`.
ONLY_RTX = {
    "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.set_compute_capability",
    "ICudaEngine.create_runtime_config",
    "IExecutionContext.is_stream_capturable",
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
    "IRuntimeConfig.set_execution_context_allocation_strategy",
    "DynamicShapesKernelSpecializationStrategy",
    "DynamicShapesKernelSpecializationStrategy.EAGER",
}


def trees() -> Iterator[ast.AST]:
    for path in SOURCES:
        yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def name_of(node: ast.AST) -> str | None:
    """What an expression is in TensorRT: "Builder" for `builder`, "X.y" for what is in it."""
    if isinstance(node, ast.Name):
        return HOLDS.get(node.id)
    if isinstance(node, ast.Call):
        return GIVES.get(name_of(node.func) or "")
    if isinstance(node, ast.Attribute) and node.attr == "module":  # of install.TensorRT
        return ""
    if isinstance(node, ast.Attribute) and node.attr in HOLDS:  # self._engine
        return HOLDS[node.attr]
    if isinstance(node, ast.Attribute) and not node.attr.startswith("__"):
        owner = name_of(node.value)
        return None if owner is None else f"{owner}.{node.attr}".lstrip(".")
    return None


def used() -> set[str]:
    """Attributes of TensorRT's objects, and the methods our subclasses of its classes fill in."""
    names = {name_of(node) for node in trees() if isinstance(node, ast.Attribute)}
    for node in trees():
        if isinstance(node, ast.ClassDef):
            for base in filter(None, map(name_of, node.bases)):
                methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
                names |= {f"{base}.{part.name}" for part in methods if part.name[0] != "_"}
    return {name for name in names if name}


def asked_for() -> set[str]:
    """Names that `hasattr` or a `getattr` with a default looks for first."""
    names: set[str] = set()
    for node in trees():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            guarded = node.func.id == "hasattr" or (
                node.func.id == "getattr" and len(node.args) == 3
            )
            if guarded and isinstance(node.args[1], ast.Constant):
                owner, wanted = name_of(node.args[0]), str(node.args[1].value)
                names.add(f"{owner}.{wanted}".lstrip("."))
    return names


@pytest.fixture(scope="module")
def known(asset: Asset) -> dict[str, set[str]]:
    lists = json.loads(asset("tensorrt_api_names.json").read_text(encoding="utf-8"))
    return {version: set(names) for version, names in lists.items()}


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_used_without_asking_exists(known: dict[str, set[str]], version: str) -> None:
    optional = asked_for() | (ONLY_RTX if "rtx" not in version else set())
    unknown = {
        name
        for name in used() - known[version] - optional
        if not any(name.startswith(f"{guard}.") for guard in asked_for())
    }
    assert sorted(unknown) == []


def test_what_is_asked_for_exists_somewhere(known: dict[str, set[str]]) -> None:
    assert sorted(asked_for() - set[str]().union(*known.values())) == []


def test_the_search_sees_the_calls_that_matter() -> None:
    assert used() >= {
        "OnnxParser.parse_from_file",
        "ParserError.desc",
        "ITensor.name",
        "IOptimizationProfile.set_shape",
        "IBuilderConfig.clear_flag",
        "BuilderFlag.TF32",
        "ITimingCache.serialize",
        "ILogger.log",
        "IProgressMonitor.step_complete",
        "Runtime.deserialize_cuda_engine",
        "ICudaEngine.device_memory_size_v2",
        "IExecutionContext.execute_async_v3",
    }
    assert asked_for() >= {"ComputeCapability", "NetworkDefinitionCreationFlag.STRONGLY_TYPED"}


def test_flags_that_tensorrt_11_removed_are_nowhere() -> None:
    gone = {"FP16", "INT8", "BF16", "EXPLICIT_BATCH", "int8_calibrator", "max_workspace_size"}
    assert not {name for name in used() if name.rpartition(".")[2] in gone}


def test_no_other_module_speaks_to_tensorrt() -> None:
    others = [path for path in (*BUILDER, *RUNTIME) if path not in SOURCES]
    assert len(others) > 20
    for path in others:
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        assert not [node for node in nodes if isinstance(node, ast.Name) and node.id == "trt"], path
