from pathlib import Path

import onnx
import pytest

from florence_edge import contract
from florence_edge.bundle import WEIGHTS, Bundle
from florence_edge.errors import BackendError, BundleError
from florence_edge.tensorrt.profiles import EngineOptions, profiles
from florence_edge_export.tensorrt_build.memory_forecast import (
    Forecast,
    FreeMemory,
    available_memory,
    check_room,
    forecast,
    weight_bytes,
)
from florence_edge_jetson.machine.system import Tree

from ..helpers.manifests import edit_manifest
from . import folders

NEEDED = Forecast(graph="decoder", weights_mb=300, activations_mb=100, workspace_mb=1024)


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.load(tiny_bundle)


def estimate(bundle: Bundle, graph: str, options: EngineOptions) -> Forecast:
    of_graph = profiles(bundle.size, options)[graph]
    return forecast(bundle, bundle.graph_file(graph), graph, of_graph, options)


@pytest.mark.parametrize("graph", contract.GRAPHS)
def test_weights_are_counted_as_onnx_counts_them(bundle: Bundle, graph: str) -> None:
    model = onnx.load(bundle.graph_file(graph), load_external_data=False)
    stored = [
        int(entry.value)
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "length"
    ]
    assert len(stored) > 10
    assert weight_bytes(bundle, bundle.graph_file(graph)) == sum(stored)


def test_a_bundle_of_an_older_export_is_counted_with_all_its_weights(
    bundle: Bundle, tmp_path: Path
) -> None:
    older = folders.copy(bundle.folder, tmp_path / "older")
    edit_manifest(older, lambda content: content.pop("weight_bytes"))
    found = weight_bytes(Bundle.load(older), older / "decoder.onnx")
    assert found == (older / WEIGHTS).stat().st_size


def test_garbled_sizes_of_weights_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    copy = folders.copy(bundle.folder, tmp_path / "copy")
    edit_manifest(copy, lambda content: content.update(weight_bytes="many"))
    with pytest.raises(BundleError, match=r"weight_bytes.*export the bundle again"):
        weight_bytes(Bundle.load(copy), copy / "decoder.onnx")


@pytest.mark.parametrize("graph", contract.GRAPHS)
def test_more_images_take_more_memory(bundle: Bundle, graph: str) -> None:
    one = estimate(bundle, graph, EngineOptions())
    many = estimate(bundle, graph, EngineOptions(batch=64))
    assert many.activations_mb > one.activations_mb
    assert many.weights_mb == one.weights_mb


def test_the_workspace_is_part_of_it(bundle: Bundle) -> None:
    small = estimate(bundle, contract.DECODER, EngineOptions(workspace_mb=100))
    large = estimate(bundle, contract.DECODER, EngineOptions(workspace_mb=600))
    assert large.total_mb - small.total_mb == 500


def test_where_there_is_room_nothing_is_said() -> None:
    assert check_room(NEEDED, FreeMemory(available_mb=NEEDED.total_mb, swap_mb=0)) is None
    assert check_room(NEEDED, None) is None


def test_what_only_swap_can_hold_is_a_warning_that_says_what_to_do() -> None:
    warning = check_room(NEEDED, FreeMemory(available_mb=2000, swap_mb=4000))
    assert warning is not None
    assert f"decoder: about {NEEDED.total_mb} MB" in warning
    assert "2000 MB are available: it will swap" in warning
    assert "smaller --workspace" in warning


def test_what_nothing_can_hold_is_refused() -> None:
    with pytest.raises(BackendError, match=r"2000 MB are available and 100 MB of swap.*add swap"):
        check_room(NEEDED, FreeMemory(available_mb=2000, swap_mb=100))


def test_linux_is_asked_for_what_is_available(tmp_path: Path) -> None:
    tree, path = Tree(tmp_path), tmp_path / "proc" / "meminfo"
    path.parent.mkdir()
    path.write_text("MemTotal: 7802880 kB\nMemAvailable: 5242880 kB\nSwapFree: 1024 kB\n")
    assert available_memory(tree) == FreeMemory(available_mb=5120, swap_mb=1)
    path.write_text("something else")
    assert available_memory(tree) is None
    assert available_memory(Tree(tmp_path / "none")) is None
