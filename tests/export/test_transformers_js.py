"""The files of --layout transformers.js, driven by names as their consumers do, without node."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from florence_edge import Florence2, GenerationOptions
from florence_edge.bundle import TOKENIZER
from florence_edge.errors import BackendError, BundleError, RequestError
from florence_edge.image import pixels
from florence_edge.tasks import TASKS, Needs, prompt_for
from florence_edge.tokenizer import Tokenizer
from florence_edge_calibration.quantization.blockwise import linear_weight
from florence_edge_calibration.quantization.dataset import scene_samples
from florence_edge_export.bundle_writer import check_target
from florence_edge_export.checkpoint.defaults import read_image_processing
from florence_edge_export.cli import main
from florence_edge_export.export import ExportOptions, read_source
from florence_edge_export.transformers_js import layout
from florence_edge_export.transformers_js.dtypes import named_linears
from florence_edge_export.transformers_js.export import LayoutOptions, export_layout
from florence_edge_export.transformers_js.layout import Dtype
from florence_edge_export.transformers_js.observed import observe_inputs
from florence_edge_export.transformers_js.ort_backend import Model, open_file, open_files
from florence_edge_export.transformers_js.writer import Writer

from ..conftest import IMAGE_SIZE

onnxruntime = pytest.importorskip("onnxruntime")

DTYPES: tuple[Dtype, ...] = ("fp32", "fp16", "q8")


@pytest.fixture(scope="module")
def folder(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("layout") / "tiny"
    options = LayoutOptions(dtypes=DTYPES, budget=None, first_step=True)
    export_layout("tiny", tiny_checkpoint, output, options)
    return output


def session(folder: Path, graph: str, dtype: Dtype = "fp32") -> Any:
    return onnxruntime.InferenceSession(str(folder / layout.file_of(graph, dtype)))


def question(model: Florence2, seed: int = 0) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any]]:
    """A picture's square, and the ids of a prompt."""
    sample = scene_samples(1, image_size=IMAGE_SIZE, skip=seed)[0]
    ids, _ = model.encode_prompts([sample.prompts[0]])
    return pixels(sample.read(), IMAGE_SIZE)[None], ids


def states_of(folder: Path, model: Florence2, checkpoint: Path) -> dict[str, npt.NDArray[Any]]:
    """What a decoder is fed about a picture and a prompt, by the consumers' own way."""
    square, ids = question(model)
    image = read_image_processing(checkpoint)
    values = (square / 255 - image.mean) / image.std
    values = np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32)
    (features,) = session(folder, layout.VISION_ENCODER).run(None, {"pixel_values": values})
    (words,) = session(folder, layout.EMBED_TOKENS).run(None, {"input_ids": ids})
    embeds = np.concatenate([features, words], axis=1)
    mask = np.ones(embeds.shape[:2], dtype=np.int64)
    feeds = {"attention_mask": mask, "inputs_embeds": embeds}
    (states,) = session(folder, layout.ENCODER).run(["last_hidden_state"], feeds)
    return {"encoder_attention_mask": mask, "encoder_hidden_states": states}


def test_names_and_order_are_onnx_communitys(folder: Path) -> None:
    decoder = session(folder, layout.DECODER)
    pasts = [
        f"past_key_values.{layer}.{attention}.{part}"
        for layer in range(2)
        for attention in ("decoder", "encoder")
        for part in ("key", "value")
    ]
    assert [each.name for each in decoder.get_inputs()] == [
        "encoder_attention_mask",
        "encoder_hidden_states",
        "inputs_embeds",
        *pasts,
        "use_cache_branch",
    ]
    presents = [name.replace("past_key_values", "present") for name in pasts]
    assert [each.name for each in decoder.get_outputs()] == ["logits", *presents]
    first = session(folder, layout.FIRST_STEP)
    assert [each.name for each in first.get_inputs()] == [
        "encoder_attention_mask",
        "encoder_hidden_states",
        "inputs_embeds",
    ]
    assert [each.name for each in first.get_outputs()] == ["logits", *presents]
    encoder = session(folder, layout.ENCODER)
    assert [each.name for each in encoder.get_inputs()] == ["attention_mask", "inputs_embeds"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_dtypes_have_float32_at_their_doors(folder: Path, dtype: Dtype) -> None:
    for graph in (*layout.GRAPHS, layout.FIRST_STEP):
        opened = session(folder, graph, dtype)
        for each in (*opened.get_inputs(), *opened.get_outputs()):
            assert each.type in ("tensor(float)", "tensor(int64)", "tensor(bool)"), each.name


@pytest.mark.parametrize("beams", [1, 3])
def test_answers_are_the_bundles_own(
    folder: Path, tiny_checkpoint: Path, tiny_model: Florence2, beams: int
) -> None:
    bundle = tiny_model.bundle
    model = Model(bundle.size, read_image_processing(tiny_checkpoint))
    backend = open_files(folder, dict.fromkeys(layout.GRAPHS, "fp32"), model)
    tokenizer = Tokenizer(bundle.folder / TOKENIZER, bundle.generation)
    options = GenerationOptions(num_beams=beams, max_new_tokens=12)
    with Florence2(bundle, backend, tokenizer) as other:
        for sample in scene_samples(2, image_size=IMAGE_SIZE):
            for prompt in sample.prompts[:4]:
                ask = (sample.read(), prompt.task, prompt.text_input)
                expected = tiny_model.run(*ask, options=options)
                found = other.run(*ask, options=options)
                assert found.token_ids == expected.token_ids


def test_caches_count_as_use_cache_branch_says(
    folder: Path, tiny_checkpoint: Path, tiny_model: Florence2
) -> None:
    """Empty ones, dummies of optimum's length one that are not to be used, and decoder_model."""
    about = states_of(folder, tiny_model, tiny_checkpoint)
    decoder, size = session(folder, layout.DECODER), tiny_model.bundle.size
    (embeds,) = session(folder, layout.EMBED_TOKENS).run(None, {"input_ids": np.array([[2, 0]])})
    about["inputs_embeds"] = embeds
    names = [each.name for each in decoder.get_inputs() if each.name.startswith("past")]

    def run(rows: int, *, used: bool) -> Mapping[str, npt.NDArray[Any]]:
        noise = np.random.default_rng(0).standard_normal((1, size.decoder_heads, rows, 16))
        caches = dict.fromkeys(names, noise.astype(np.float32))
        outputs = [each.name for each in decoder.get_outputs()]
        feeds = {**about, **caches, "use_cache_branch": np.array([used])}
        return dict(zip(outputs, decoder.run(None, feeds), strict=True))

    empty, dummies = run(0, used=False), run(1, used=False)
    first = session(folder, layout.FIRST_STEP).run(None, about)
    for (name, expected), alone in zip(empty.items(), first, strict=True):
        np.testing.assert_allclose(dummies[name], expected, rtol=1e-4, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(alone, expected, rtol=1e-4, atol=1e-5, err_msg=name)

    # Two tokens at once score as one after the other do.
    caches = {name: empty[name.replace("past_key_values", "present")] for name in names}
    one = {name: each[:, :, :1] if ".decoder." in name else each for name, each in caches.items()}
    feeds = {**about, **one, "inputs_embeds": embeds[:, 1:], "use_cache_branch": np.array([True])}
    logits, *presents = decoder.run(None, feeds)
    np.testing.assert_allclose(logits[:, 0], empty["logits"][:, 1], rtol=1e-4, atol=1e-4)
    assert presents[2].shape[2] == 0  # of the encoder: nothing is projected again


def test_json_files_say_what_transformers_js_reads(folder: Path, tiny_model: Florence2) -> None:
    def read(name: str) -> Any:
        return json.loads((folder / name).read_text(encoding="utf-8"))

    config, generation = read("config.json"), read("generation_config.json")
    assert config["text_config"]["model_type"]
    assert config["is_encoder_decoder"] is True
    assert config["transformers.js_config"]["dtype"] == dict.fromkeys(layout.GRAPHS, "q8")
    webgpu = config["transformers.js_config"]["device_config"]["webgpu"]
    assert webgpu["dtype"] == dict.fromkeys(layout.GRAPHS, "fp16")
    assert generation["num_beams"] == 1
    assert generation["max_new_tokens"] <= tiny_model.bundle.size.decoder_positions
    assert generation["no_repeat_ngram_size"] == 3
    processor = read("preprocessor_config.json")
    assert processor["image_seq_length"] == tiny_model.bundle.size.image_tokens
    for task in TASKS.values():
        table = "without_inputs" if task.needs is Needs.NOTHING else "with_input"
        assert processor[f"task_prompts_{table}"][task.token] == task.template
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    prompt = prompt_for("OD", None, None, None)
    expected, _ = tiny_model.encode_prompts([prompt])
    assert tokenizer.encode(prompt.wording).ids == expected[0].tolist()
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "library_name: transformers.js" in card
    assert all(f"`{dtype}`" in card for dtype in DTYPES)


def test_what_onnx_runtime_refuses_is_one_message(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "embed_tokens_q4.onnx"
    broken.write_bytes(b"no graph")
    with pytest.raises(BackendError, match=r"cannot open embed_tokens_q4\.onnx: .*--dtypes"):
        open_file(broken)
    run = open_file(folder / layout.file_of(layout.EMBED_TOKENS, "fp32"))
    with pytest.raises(BackendError, match=r"failed while running embed_tokens\.onnx: .*--dtypes"):
        run(["inputs_embeds"], {"input_ids": np.zeros((1, 1), dtype=np.float32)})


def test_fidelity_says_what_each_graph_has(folder: Path) -> None:
    found = json.loads((folder / "fidelity.json").read_text(encoding="utf-8"))["against_float"]
    assert found["dtypes"]["q8"]["stored"] == dict.fromkeys(layout.GRAPHS, "8 bits")
    assert "stored" not in found["dtypes"]["fp16"]


def test_the_lookup_of_words_has_8_bits_in_q4(tiny_checkpoint: Path, tmp_path: Path) -> None:
    source = read_source("tiny", tiny_checkpoint, ExportOptions())
    writer = Writer(source, tmp_path, first_step=False)
    rungs = {layout.EMBED_TOKENS: 0, layout.ENCODER: 1}
    assert writer.stored("q4", rungs) == {
        layout.EMBED_TOKENS: "8 bits",
        layout.ENCODER: "4 bits; 8 bits: attention",
    }
    files = [writer.write(dtype, layout.EMBED_TOKENS) for dtype in ("q4", "q8")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_what_linears_read_is_counted_and_4_bits_are_rounded_by_it(
    tiny_checkpoint: Path, tiny_model: Florence2, tmp_path: Path
) -> None:
    source = read_source("tiny", tiny_checkpoint, ExportOptions())
    folder = tmp_path / "new"
    folder.mkdir()
    writer = Writer(source, folder, first_step=False)
    (sample,) = scene_samples(1, image_size=IMAGE_SIZE)
    asked = replace(sample, prompts=sample.prompts[:1], truths=None)
    model = Model(source.size, source.image)
    grams = observe_inputs(writer.float_graph, tiny_model.bundle, model, [asked], folder)
    assert list(tmp_path.iterdir()) == [folder]  # nothing is left behind
    for graph in (layout.VISION_ENCODER, layout.ENCODER, layout.DECODER):
        linears = {name: linear_weight(node) for node, name in products(writer, graph)}
        assert linears
        for name, weight in linears.items():
            assert grams[name].shape == (len(weight), len(weight))
            np.testing.assert_allclose(grams[name], grams[name].T, rtol=1e-5)
            assert np.diag(grams[name]).max() > 0
    nearest = writer.write("q4", layout.ENCODER).read_bytes()
    writer.grams = grams
    assert writer.write("q4", layout.ENCODER).read_bytes() != nearest


def products(writer: Writer, graph: str) -> list[tuple[Any, str]]:
    found = named_linears(writer.float_graph(graph).graph)
    return [(node, name) for node, name in found if node.op_type != "Gather"]


def test_smaller_dtypes_are_smaller(folder: Path) -> None:
    sizes = [
        sum((folder / layout.file_of(graph, dtype)).stat().st_size for graph in layout.GRAPHS)
        for dtype in DTYPES
    ]
    assert sizes == sorted(sizes, reverse=True)


def test_an_exported_folder_may_be_replaced_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    shutil.copytree(folder, target)
    with pytest.raises(RequestError, match="--overwrite"):
        check_target(target, overwrite=False)
    check_target(target, overwrite=True)
    (target / "onnx" / "notes.txt").write_text("mine")
    with pytest.raises(RequestError, match=r"onnx/notes\.txt"):
        check_target(target, overwrite=True)
    with pytest.raises(BundleError, match="without --layout"):
        Florence2.load(target)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dtypes", "fp32,int3"], "no dtype 'int3'"),
        (["--dtypes", ","], "names none"),
        (["--precision", "fp16"], "--precision is for bundles"),
        (["--portable-decoder"], "--portable-decoder is for bundles"),
        (["--dtypes", "q8"], "--calibration-images"),
        (["--budget", "2", "--calibration-images", "."], "below 1"),
    ],
)
def test_what_does_not_fit_is_one_message(
    arguments: list[str],
    message: str,
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    command = [str(tiny_checkpoint), "--layout", "transformers.js", "--output", str(output)]
    assert main([*command, *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not output.exists()


def test_dtypes_without_the_layout_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["miniature", "--dtypes", "fp16", "--output", str(tmp_path / "out")]) == 1
    assert "--layout transformers.js" in capsys.readouterr().err
