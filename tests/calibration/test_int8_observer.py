"""Observed graphs give of activations what numpy finds in the activations themselves."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from PIL import Image

from florence_edge import Florence2, contract
from florence_edge.bundle import Bundle
from florence_edge.errors import BundleError
from florence_edge.image import pixels
from florence_edge_calibration.graph_edit import by_activation, find_linears
from florence_edge_calibration.quantization.calibration_table import CalibrationTable
from florence_edge_calibration.quantization.dataset import (
    CalibrationSample,
    no_progress,
    scene_samples,
)
from florence_edge_calibration.quantization.histogram import BINS
from florence_edge_calibration.quantization.observer import (
    ObservedGraph,
    calibrate,
    is_observed,
    observe,
    open_session,
)
from florence_edge_export.export import ExportOptions, export

from ..export import folders
from .plain_histogram import bin_of

Array = npt.NDArray[Any]
SAMPLED = 256  # rows of an activation of a picture


def activations(bundle: Bundle, graph: str, feeds: dict[str, Array]) -> dict[str, Array]:
    """What the linears read, whole: [rows, channels]."""
    model = ir.load(bundle.graph_file(graph))
    groups = by_activation(find_linears(model.graph))
    model.graph.outputs.clear()
    read = {name: linears[0] for name, linears in groups.items()}
    model.graph.outputs.extend([linear.activation for linear in read.values()])
    values = open_session(model, bundle.folder, threads=1).run(None, feeds)
    found = {}
    for (name, linear), value in zip(read.items(), values, strict=True):
        rows = np.moveaxis(value, 1, -1) if linear.node.op_type == "Conv" else value
        found[name] = rows.reshape(-1, linear.channels)
    return found


@pytest.fixture(scope="module")
def feeds(tiny_model: Florence2, samples: list[CalibrationSample]) -> dict[str, dict[str, Array]]:
    """Inputs of both encoders for one picture and one prompt."""
    square = pixels(samples[0].read(), tiny_model.bundle.size.image_size)[None]
    ids, mask = tiny_model.encode_prompts([samples[0].prompts[3]])
    features = np.asarray(tiny_model.backend.encode_image(square))
    return {
        contract.VISION_ENCODER: {"pixels": square},
        contract.TEXT_ENCODER: {
            "image_features": features,
            "input_ids": ids,
            "encoder_mask": mask,
        },
    }


_OUTPUTS = {
    contract.VISION_ENCODER: "image_features",
    contract.TEXT_ENCODER: contract.cross_cache(0, "key"),
}


@pytest.fixture(scope="module", params=[contract.VISION_ENCODER, contract.TEXT_ENCODER])
def graph(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_extremes_and_bins_are_those_of_the_activations(
    floats: Bundle, feeds: dict[str, dict[str, Array]], graph: str
) -> None:
    observed = ObservedGraph.open(floats, graph, threads=1)
    observed.run(feeds[graph], _OUTPUTS[graph], "a picture")
    real = activations(floats, graph, feeds[graph])
    assert set(observed.observers) == set(real)
    for name, rows in real.items():
        found = observed.observers[name].histogram()
        np.testing.assert_allclose(
            found.min_values, rows.min(axis=0), rtol=1e-4, atol=1e-6, err_msg=name
        )
        np.testing.assert_allclose(found.max_values, rows.max(axis=0), rtol=1e-4, atol=1e-6)
        sample = rows[:: max(1, len(rows) // SAMPLED)]
        expected = [np.bincount(bin_of(column), minlength=BINS) for column in sample.T]
        off = np.abs(found.counts - expected).sum() / 2  # engines round differently at an edge
        assert found.counts.sum() == sample.size
        assert off <= max(2, 0.002 * sample.size), name


def test_large_activations_are_sampled_evenly_and_their_extremes_are_of_all_rows() -> None:
    model = _linear_model()
    channels = observe(model)
    rows = np.random.default_rng(0).standard_normal((1000, 16)).astype(np.float32)
    rows[1] = 77.0  # between two rows of the sample
    session = open_session(model, Path(), threads=1)
    found = dict(
        zip([o.name for o in session.get_outputs()], session.run(None, {"x": rows}), strict=True)
    )
    assert channels == {"fc": 16}
    assert found["fc.observed_max"].min() == 77
    np.testing.assert_array_equal(found["fc.observed_bins"], bin_of(rows[::3]))


def _linear_model() -> ir.Model:
    graph = ir.from_onnx_text(
        """<ir_version: 9, opset_import: ["" : 20]>
        g (float[N, 16] x) => (float[N, 4] y) { y = MatMul(x, weight) }"""
    )
    weight = ir.tensor(np.ones((16, 4), np.float32), name="fc.weight")
    (node,) = graph.graph
    value = ir.Value(
        name="fc.weight",
        shape=ir.Shape((16, 4)),
        type=ir.TensorType(weight.dtype),
        const_value=weight,
    )
    graph.graph.register_initializer(value)
    node.replace_input_with(1, value)
    node.name = "fc/MatMul"
    return graph


def test_the_graphs_own_outputs_are_unchanged(
    floats: Bundle, tiny_model: Florence2, feeds: dict[str, dict[str, Array]]
) -> None:
    observed = ObservedGraph.open(floats, contract.VISION_ENCODER, threads=1)
    found = observed.run(feeds[contract.VISION_ENCODER], "image_features", "a picture")
    expected = feeds[contract.TEXT_ENCODER]["image_features"]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    outputs = [output.name for output in observed.session.get_outputs()]
    added = [name for name in outputs if is_observed(name)]
    assert added == list(observed.observed)
    assert "image_features" not in added


def test_several_pictures_add_up(
    floats: Bundle, samples: list[CalibrationSample], table: CalibrationTable
) -> None:
    parts = [calibrate(floats, [sample], no_progress, threads=1) for sample in samples[:1]]
    for name, whole in table.activations.items():
        (first,) = (part.activations[name] for part in parts)
        assert (whole.max_values >= first.max_values).all()
        assert (whole.min_values <= first.min_values).all()
        assert (whole.counts >= first.counts).all() or "text_encoder" in name
    vision = table.activations["vision_encoder.projector.image_projection"]
    assert vision.counts[0].sum() == len(samples) * 5  # 2 x 2 patches and their mean


def test_the_same_samples_give_the_same_table(
    floats: Bundle, samples: list[CalibrationSample], table: CalibrationTable, tmp_path: Path
) -> None:
    again = calibrate(floats, samples, no_progress, threads=1)
    for name, path in (("first", table), ("second", again)):
        path.save(tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def counted(samples: list[CalibrationSample], reads: Counter[str]) -> list[CalibrationSample]:
    """The same samples, and how often each is read."""

    def reading(sample: CalibrationSample) -> Callable[[], Image.Image]:
        def read() -> Image.Image:
            reads[sample.name] += 1
            return sample.read()

        return read

    return [replace(sample, read=reading(sample)) for sample in samples]


def test_every_picture_is_read_exactly_once(
    floats: Bundle, samples: list[CalibrationSample]
) -> None:
    reads: Counter[str] = Counter()
    shown: list[tuple[int, int]] = []
    found = calibrate(floats, counted(samples, reads), lambda *both: shown.append(both), threads=1)
    assert reads == {sample.name: 1 for sample in samples}
    assert shown == [(done, len(samples)) for done in range(1, len(samples) + 1)]
    assert (found.pictures, found.prompts) == (len(samples), 2 * len(samples))


def test_pictures_are_distinct_in_what_the_model_reads(
    floats: Bundle, samples: list[CalibrationSample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that hands out one buffer again and again would show the last picture only."""
    squares, prompts = [], []
    run = ObservedGraph.run

    def spied(self: ObservedGraph, feeds: dict[str, Array], output: str, what: str) -> Array:
        if "pixels" in feeds:
            squares.append(feeds["pixels"])  # not copied, on purpose
        else:
            prompts.append((feeds["image_features"], feeds["input_ids"].tobytes()))
        return run(self, feeds, output, what)

    monkeypatch.setattr(ObservedGraph, "run", spied)
    calibrate(floats, samples, no_progress, threads=1)
    assert len({square.tobytes() for square in squares}) == len(samples)
    assert len({features.tobytes() for features, _ in prompts}) == len(samples)
    expected = [pixels(sample.read(), floats.size.image_size) for sample in samples]
    np.testing.assert_array_equal(np.concatenate(squares), expected)


def test_a_repeated_picture_gives_another_table(
    floats: Bundle, samples: list[CalibrationSample], table: CalibrationTable
) -> None:
    last = samples[-1].read
    repeated = [replace(sample, read=last) for sample in samples]
    wrong = calibrate(floats, repeated, no_progress, threads=1)
    name = "vision_encoder.convs.1.conv"
    assert (wrong.activations[name].counts != table.activations[name].counts).any()
    assert (wrong.activations[name].counts % len(samples) == 0).all()


def test_eight_pictures_are_asked_all_fifteen_tasks(
    floats: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    run = ObservedGraph.run

    def spied(self: ObservedGraph, feeds: dict[str, Array], output: str, what: str) -> Array:
        asked.append(what)
        return run(self, feeds, output, what)

    monkeypatch.setattr(ObservedGraph, "run", spied)
    calibrate(floats, scene_samples(8, image_size=64), no_progress, threads=1)
    tasks = {what.rpartition(", ")[2] for what in asked if ", <" in what}
    assert len(tasks) == 15


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("tensor", "named"),
    [
        (
            "vision_tower.blocks.1.0.spatial_block.ffn.fn.fc1",
            "vision_encoder.blocks.1.0.spatial_block.ffn.fc2",
        ),
        ("language_model.encoder.layers.0.fc1", "text_encoder.layers.0.fc2"),
    ],
)
def test_a_weight_that_is_not_finite_is_found_where_it_is_first_read(
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tensor: str,
    named: str,
    value: float,
) -> None:
    """In a bundle that is not from this exporter, which would refuse the weight, and the bundle."""
    monkeypatch.setattr("florence_edge_export.graphs.weights._finite", lambda name, values: values)
    monkeypatch.setattr("florence_edge_export.export._run_once", lambda folder: None)
    folder = folders.copy(tiny_checkpoint, tmp_path / "checkpoint")
    tensors = folders.read(folder)
    (name,) = (each for each in tensors if _is_bias_of(each, tensor))
    tensors[name][3] = value
    folders.write(folder, tensors)
    export("spoilt", folder, tmp_path / "bundle", ExportOptions())
    bundle = Bundle.load(tmp_path / "bundle")
    with pytest.raises(BundleError, match=rf"What {named} reads is not finite for scene \d+"):
        calibrate(bundle, scene_samples(1, image_size=64), no_progress, threads=1)


def _is_bias_of(name: str, module: str) -> bool:
    return name.replace(".fn.", ".").endswith(f"{module.replace('.fn.', '.')}.bias")


def test_a_bundle_that_is_not_float32_is_refused(tiny_half_bundle: Path) -> None:
    half = Bundle.load(tiny_half_bundle)
    with pytest.raises(BundleError, match="is fp16; calibration needs the float32 model") as caught:
        calibrate(half, [], no_progress)
    assert "florence-export CHECKPOINT --output FLOAT_BUNDLE" in str(caught.value)


def test_outlier_channels_are_observed(planted_table: CalibrationTable) -> None:
    def ratio(name: str) -> float:
        maxima = planted_table.activations[name].abs_max
        return float(maxima.max() / np.median(maxima))

    assert ratio("vision_encoder.blocks.2.0.spatial_block.ffn.fc1") > 20
    assert ratio("text_encoder.layers.0.self_attn.out_proj") > 20
