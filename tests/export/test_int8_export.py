"""int8 bundles: what is in them, where they run, how they answer, and what is written down."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from florence_edge import Florence2, GenerationOptions, contract
from florence_edge.bundle import Bundle
from florence_edge.errors import BackendError, BundleError, FlorenceEdgeError, RequestError
from florence_edge.tasks import TASKS
from florence_edge_calibration.quantization.calibration_table import CalibrationTable
from florence_edge_calibration.quantization.dataset import scene_samples
from florence_edge_calibration.quantization.recipe import TARGETS, Target
from florence_edge_export.checkpoint.loader import MINIATURE, find_checkpoint
from florence_edge_export.export import ExportOptions, export
from florence_edge_export.quantization import export as int8_export
from florence_edge_export.quantization import gate
from florence_edge_export.quantization.export import QuantizationOptions, _samples

from ..helpers.made_once import made_once
from . import folders

JUDGED, FEW, BUDGET = 4, 500, 0.2  # a task has a few positions only, of which one may turn
_SHORT = GenerationOptions(num_beams=1, max_new_tokens=12)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for index, sample in enumerate(scene_samples(12, image_size=64)):
        sample.read().save(folder / f"{index:02}.png")
    return folder


def export_tiny(
    checkpoint: Path, output: Path, options: QuantizationOptions, *, overwrite: bool = False
) -> Bundle:
    chosen = ExportOptions(precision="int8", quantization=options, overwrite=overwrite)
    export("tiny", checkpoint, output, chosen)
    return Bundle.load(output)


@pytest.fixture(scope="module")
def tiny_int8(
    tiny_checkpoint: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[Target, Bundle]:
    """Random weights: their answers mean nothing, so there is no gate."""

    def make(folder: Path) -> None:
        for target in TARGETS:
            options = QuantizationOptions(target=target, images=pictures, budget=None)
            export_tiny(tiny_checkpoint, folder / target, options)

    folder = made_once(tmp_path_factory, "tiny-int8", make)
    return {target: Bundle.load(folder / target) for target in TARGETS}


@pytest.fixture(scope="module", params=TARGETS)
def target(request: pytest.FixtureRequest) -> Target:
    chosen: Target = request.param
    return chosen


@pytest.fixture(scope="module")
def tiny(tiny_int8: dict[Target, Bundle], target: Target) -> Bundle:
    return tiny_int8[target]


@pytest.fixture(scope="module")
def few_judging_scenes() -> Iterator[None]:
    """Some seconds' worth of the scenes that the miniature is judged by."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8_export, "_JUDGING_SCENES", JUDGED)
        patch.setattr(gate, "MIN_POSITIONS", FEW)
        yield


@pytest.fixture(scope="module")
def miniature(
    few_judging_scenes: None, target: Target, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """The miniature, judged."""
    options = QuantizationOptions(target=target, samples=8, budget=BUDGET)
    chosen = ExportOptions(precision="int8", quantization=options)

    def make(folder: Path) -> None:
        export(MINIATURE, find_checkpoint(MINIATURE), folder, chosen)

    return Bundle.load(made_once(tmp_path_factory, f"miniature-int8-{target}", make))


# --- the bundle


def test_the_manifest_says_what_it_is(tiny: Bundle, target: Target) -> None:
    assert tiny.precision == "int8"
    expected = {
        "tensorrt": ("gpu", "float16"),
        "portable": ("any", "float16"),
        "cpu": ("cpu", "float32"),
    }
    assert (tiny.target, tiny.floats) == expected[target]


def test_everything_in_the_folder_is_listed_and_whole(tiny: Bundle, target: Target) -> None:
    tiny.check_content()
    names = {path.name for path in tiny.folder.iterdir()} - {"manifest.json"}
    assert names == set(tiny.files)
    assert {"fidelity.json", "fidelity.md", "reference.npz"} <= names
    assert ("calibration.json" in names) == (target != "tensorrt")


def test_nothing_is_left_beside_the_bundles(tiny_int8: dict[Target, Bundle]) -> None:
    beside = {path.name for path in tiny_int8["cpu"].folder.parent.iterdir()}
    assert beside == set(TARGETS)


def test_it_answers_and_passes_its_self_test(tiny: Bundle, pictures: Path) -> None:
    model = Florence2.load(tiny.folder, threads=1)
    model.self_test()
    for result in model.run(sorted(pictures.iterdir())[:2], "OD", options=_SHORT):
        assert len(result.token_ids) > 1


def test_features_are_near_the_float_models(
    tiny: Bundle, tiny_model: Florence2, pictures: Path
) -> None:
    model = Florence2.load(tiny.folder, threads=1)
    side = tiny.size.image_size
    random = np.random.default_rng(0)
    squares = random.integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    expected = np.asarray(tiny_model.backend.encode_image(squares)).astype(np.float64)
    found = np.asarray(model.backend.encode_image(squares))
    assert found.dtype == tiny.floats
    assert np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)) < 0.2


@pytest.mark.parametrize("engine", ["cuda", "tensorrt"])
def test_a_cpu_bundle_is_refused_elsewhere_with_the_command_to_run(
    tiny_int8: dict[Target, Bundle], engine: str
) -> None:
    message = (
        f"was made for cpu and does not run on {engine}.*florence-export CHECKPOINT --precision "
    )
    with pytest.raises(BackendError, match=message):
        tiny_int8["cpu"].check_engine(engine)


def test_loading_a_cpu_bundle_on_cuda_is_refused(tiny_int8: dict[Target, Bundle]) -> None:
    with pytest.raises(BackendError, match="was made for cpu and does not run on cuda"):
        Florence2.load(tiny_int8["cpu"].folder, device="cuda")


@pytest.mark.parametrize("engine", ["cpu", "cuda", "tensorrt", "openvino"])
@pytest.mark.parametrize("made_for", ["tensorrt", "portable"])
def test_other_bundles_run_on_every_engine(
    tiny_int8: dict[Target, Bundle], made_for: Target, engine: str
) -> None:
    tiny_int8[made_for].check_engine(engine)


@pytest.mark.parametrize(
    ("made_for", "device", "better"),
    [
        ("portable", "cuda", "--precision fp16 --output NEW"),
        ("tensorrt", "cuda", "--precision fp16 --output NEW"),
        ("portable", "tensorrt", "--precision int8 --target tensorrt --calibration-images DIR"),
        ("portable", "tensorrt-rtx", "--target tensorrt"),
        ("tensorrt", "cpu", "--precision int8 --target cpu"),
    ],
)
def test_int8_that_costs_there_names_the_better_export(
    tiny_int8: dict[Target, Bundle],
    caplog: pytest.LogCaptureFixture,
    made_for: Target,
    device: str,
    better: str,
) -> None:
    with suppress(FlorenceEdgeError):  # there is no GPU: it is said before one is looked for
        Florence2.load(tiny_int8[made_for].folder, device)
    (said,) = [r.getMessage() for r in caplog.records if " is int8" in r.getMessage()]
    assert better in said


def test_on_cuda_it_is_said_what_int8_still_saves(
    tiny_int8: dict[Target, Bundle], caplog: pytest.LogCaptureFixture
) -> None:
    with suppress(FlorenceEdgeError):
        Florence2.load(tiny_int8["tensorrt"].folder, "cuda")
    (said,) = [r.getMessage() for r in caplog.records if " is int8" in r.getMessage()]
    assert "is int8, which saves disk here, and no time" in said


@pytest.mark.parametrize(
    ("made_for", "device"), [("tensorrt", "tensorrt"), ("portable", "cpu"), ("cpu", "cpu")]
)
def test_int8_that_serves_an_engine_is_not_warned_of(
    tiny_int8: dict[Target, Bundle], caplog: pytest.LogCaptureFixture, made_for: Target, device: str
) -> None:
    with suppress(FlorenceEdgeError):
        Florence2.load(tiny_int8[made_for].folder, device)
    assert [r.getMessage() for r in caplog.records if " is int8" in r.getMessage()] == []


def test_on_a_gpu_onnx_runtime_folds_the_weights_and_the_embedding(
    tiny_int8: dict[Target, Bundle], tmp_path: Path
) -> None:
    """As it opens the graphs for CUDA, here on the CPU: nothing is dequantized at a run."""
    bundle = tiny_int8["tensorrt"]
    for name in contract.GRAPHS:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        options.optimized_model_filepath = str(tmp_path / f"{name}.onnx")
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        onnxruntime.InferenceSession(str(bundle.graph_file(name)), options)
        found = Counter(node.op_type for node in _nodes(tmp_path / f"{name}.onnx"))
        assert found["DequantizeLinear"] == found["QuantizeLinear"] == 0


def _nodes(file: Path) -> Sequence[onnx.NodeProto]:
    return onnx.load(file, load_external_data=False).graph.node


def test_for_gpus_the_encoders_are_those_of_float16(
    tiny_int8: dict[Target, Bundle], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    export("tiny", tiny_checkpoint, tmp_path / "fp16", ExportOptions(precision="fp16"))
    half, found = Bundle.load(tmp_path / "fp16"), tiny_int8["tensorrt"]
    by_operator = [
        Counter(node.op_type for node in ir.load(bundle.graph_file("vision_encoder")).graph)
        for bundle in (half, found)
    ]
    assert by_operator[0] == by_operator[1]
    text = Counter(node.op_type for node in ir.load(found.graph_file("text_encoder")).graph)
    assert (text["QuantizeLinear"], text["DequantizeLinear"]) == (0, 1)  # the embedding


def test_the_same_export_gives_the_same_weights(
    tiny_int8: dict[Target, Bundle], tiny_checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    tiny = tiny_int8["portable"]
    options = QuantizationOptions(target="portable", images=pictures, budget=None)
    again = export_tiny(tiny_checkpoint, tmp_path / "again", options)
    for name in ("weights.bin", "calibration.json", "vision_encoder.onnx", "decoder.onnx"):
        assert again.files[name] == tiny.files[name], name


# --- calibration


def test_without_a_gate_all_pictures_are_calibrated_with(tiny: Bundle, target: Target) -> None:
    if target == "tensorrt":
        return  # rounds no activations
    table = CalibrationTable.load(tiny.folder / "calibration.json")
    assert (table.pictures, table.prompts) == (12, 24)
    assert table.model == "tiny"


def test_every_fourth_picture_is_kept_for_the_gate(tiny: Bundle, pictures: Path) -> None:
    everything, none = _samples(tiny, QuantizationOptions(images=pictures, budget=None))
    calibrating, judging = _samples(tiny, QuantizationOptions(images=pictures))
    assert none == []
    assert len(judging) == len(everything) // 4
    assert {each.name for each in calibrating} | {each.name for each in judging} == {
        each.name for each in everything
    }
    assert not {each.name for each in calibrating} & {each.name for each in judging}


def test_a_bundles_table_serves_another_export(
    tiny_int8: dict[Target, Bundle], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Without pictures, and for another target: the same checkpoint's activations are the same."""
    made = tiny_int8["portable"].folder / "calibration.json"
    options = QuantizationOptions(target="cpu", table=made, budget=None)
    again = export_tiny(tiny_checkpoint, tmp_path / "again", options)
    assert again.files["weights.bin"] == tiny_int8["cpu"].files["weights.bin"]
    assert again.files["calibration.json"] == tiny_int8["portable"].files["calibration.json"]


def test_a_table_of_another_checkpoint_is_refused_and_nothing_written(
    tiny_int8: dict[Target, Bundle], native: Path, tmp_path: Path
) -> None:
    made = tiny_int8["cpu"].folder / "calibration.json"
    tensors = folders.read(native)
    name = next(name for name in tensors if name.endswith("fc1.weight"))
    tensors[name][0, 0] += 1
    folders.write(native, tensors)
    options = QuantizationOptions(target="portable", table=made, budget=None)
    with pytest.raises(RequestError, match="made from tiny, whose weights are not those of tiny"):
        export_tiny(native, tmp_path / "out" / "b", options)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_another_method_gives_other_scales(
    tiny_int8: dict[Target, Bundle], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    before = tiny_int8["portable"]
    table = before.folder / "calibration.json"
    found = {before.files["weights.bin"].sha256 + before.files["vision_encoder.onnx"].sha256}
    for method in ("minmax", "percentile"):
        options = QuantizationOptions(target="portable", table=table, budget=None, method=method)
        bundle = export_tiny(tiny_checkpoint, tmp_path / method, options)
        found.add(bundle.files["weights.bin"].sha256 + bundle.files["vision_encoder.onnx"].sha256)
        assert fidelity(bundle)["method"] == method
    assert len(found) == 3


# --- what is refused


def test_weights_that_are_not_finite_are_named_and_nothing_written(
    native: Path, pictures: Path, tmp_path: Path
) -> None:
    tensors = folders.read(native)
    (name,) = (n for n in tensors if n.endswith("encoder.layers.1.fc1.bias") and "decoder" not in n)
    tensors[name][5] = np.inf
    folders.write(native, tensors)
    options = QuantizationOptions(target="portable", images=pictures, budget=None)
    with pytest.raises(BundleError, match=r"layers.1.fc1.bias has 1 values of 128 that are inf"):
        export_tiny(native, tmp_path / "out" / "b", options)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kept": {"nothing": "fp16"}}, "--keep nothing matches no layer"),
        ({"images": Path("nowhere")}, "There is no folder nowhere"),
        ({"table": Path("nowhere.json")}, "nowhere.json is not a calibration table"),
        ({"target": "tensorrt", "table": Path("t.json")}, "rounds no activations"),
        ({"samples": 7}, "has 7 pictures that serve|--samples"),
    ],
)
def test_a_refused_export_leaves_the_old_bundle(
    tiny_checkpoint: Path,
    tiny_bundle: Path,
    pictures: Path,
    tmp_path: Path,
    change: dict[str, Any],
    message: str,
) -> None:
    old = folders.copy(tiny_bundle, tmp_path / "out" / "b")
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    given = QuantizationOptions(target="portable", images=pictures, budget=None)
    options = replace(given, **change)
    with pytest.raises((RequestError, BundleError), match=message):
        export_tiny(tiny_checkpoint, old, options, overwrite=True)
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before
    assert [path.name for path in old.parent.iterdir()] == ["b"]


# --- what is written down


def fidelity(bundle: Bundle) -> dict[str, Any]:
    content = json.loads((bundle.folder / "fidelity.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = content["against_float"]
    return found


def test_a_gate_that_was_left_out_is_called_left_out(tiny: Bundle, target: Target) -> None:
    found = fidelity(tiny)
    assert found["gate"] == "left out"
    assert "tasks" not in found
    assert found["target"] == target
    expected = {"pictures": 12, "prompts": 24} if target != "tensorrt" else None
    assert found.get("calibration") == expected
    page = (tiny.folder / "fidelity.md").read_text(encoding="utf-8")
    assert "The gate was left out: what int8 costs in accuracy was not measured." in page
    assert page.startswith("# What int8 costs: tiny")


def test_what_was_measured_is_written_down_for_every_task(
    miniature: Bundle, target: Target
) -> None:
    found = fidelity(miniature)
    assert found["target"] == target
    assert found["kept"] == {}
    expected = {"pictures": 8, "prompts": 16} if target != "tensorrt" else None
    assert found.get("calibration") == expected
    passed = found["gate"]
    assert (passed["budget"], passed["pictures"]) == (BUDGET, JUDGED)
    assert passed["encoding_speed"] > 0
    assert "lifted" not in passed
    assert list(found["tasks"]) == list(TASKS)
    assert sum(task["positions"] for task in found["tasks"].values()) >= FEW
    for name, task in found["tasks"].items():
        assert 0 <= task["loss"] <= BUDGET, name
        assert task["decided"] <= task["positions"]
        assert task["top1_agreement"] > 0.7
        assert abs(task["mean_log_prob_drop"]) < 0.1
        truth = task["against_truth"]
        assert truth["measure"]
        assert abs(truth["int8"] - truth["float"]) <= 0.3, name


def test_the_size_that_is_reported_is_that_of_the_bundle(miniature: Bundle) -> None:
    """But for what is written after the measurement: fidelity and reference, some kilobytes."""
    reported = fidelity(miniature)["gate"]["megabytes"]
    size = sum(stored.bytes for stored in miniature.files.values()) / 1e6
    assert reported == pytest.approx(size, abs=0.1)


def test_the_page_has_a_row_for_every_task(miniature: Bundle) -> None:
    page = (miniature.folder / "fidelity.md").read_text(encoding="utf-8")
    assert page.startswith("# What int8 costs: miniature")
    assert f"{JUDGED} other pictures" in page
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == list(TASKS)
    found = fidelity(miniature)["tasks"]
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 8
        task = found[cells[0].strip("`")]
        assert cells[1] == str(task["positions"])
        assert cells[2] == f"{task['loss']:.4f}"
        truth = task["against_truth"]["float"]  # rounded to four places in the one, three here
        assert float(cells[6]) == pytest.approx(truth, abs=6e-4)


def test_the_quantized_miniature_still_finds_things(miniature: Bundle) -> None:
    model = Florence2.load(miniature.folder, threads=1)
    model.self_test()
    (sample,) = scene_samples(1, image_size=miniature.size.image_size, skip=1000)
    found = model.run(sample.read(), "OD")
    assert found.regions
    assert found.status == "ok"
