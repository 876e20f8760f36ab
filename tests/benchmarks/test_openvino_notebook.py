"""The peer that does as OpenVINO's notebook: what it is told, and its decoder against the model."""

import ast
import importlib.util
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge import Bundle, RequestError
from florence_edge.tokenizer import Tokenizer
from florence_edge_benchmarks.speed.process import PROGRAMS, command_of
from florence_edge_benchmarks.systems.bundle import BundleSystem
from florence_edge_benchmarks.systems.openvino_notebook.request import write_request
from florence_edge_benchmarks.systems.system import CPU, System
from florence_edge_benchmarks.systems.workload import Workload
from florence_edge_export.checkpoint.config import Layout
from florence_edge_export.checkpoint.loader import read_checkpoint

PROGRAM = PROGRAMS["openvino-notebook"]
OD = Workload(task="OD", beams=1, new_tokens=4, batch=1, image="a.jpg")


def native(checkpoint: Path) -> bool:
    return read_checkpoint(checkpoint).config.layout is Layout.NATIVE


def test_the_program_is_told_prompts_pictures_and_how_to_generate(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    if not native(tiny_checkpoint):
        pytest.skip("this checkpoint is in Microsoft's layout")
    write_request(str(tiny_checkpoint), tiny_bundle, [OD], tmp_path / "work")
    told = json.loads((tmp_path / "work" / "request.json").read_text())
    bundle = Bundle.load(tiny_bundle)
    tokenizer = Tokenizer(tiny_bundle / "tokenizer.json", bundle.generation)
    assert tokenizer.decode(told["prompts"]["OD"]).endswith("in the image.</s>")
    assert told["image_size"] == bundle.size.image_size
    assert len(told["mean"]) == len(told["std"]) == 3
    assert told["generation"]["no_repeat_ngram_size"] == bundle.generation.no_repeat_ngram_size
    assert all(token is None or token >= 0 for name, token in told["generation"].items()
               if name.startswith("forced"))  # fmt: skip


def test_microsofts_layout_is_refused(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from florence_edge_benchmarks.systems.openvino_notebook import request

    class Microsoft:
        config = type("Config", (), {"layout": Layout.MICROSOFT})

    monkeypatch.setattr(request, "read_checkpoint", lambda _: Microsoft)
    with pytest.raises(RequestError, match="Microsoft's layout"):
        write_request(str(tiny_checkpoint), tiny_bundle, [OD], tmp_path)


def test_it_runs_in_an_environment_of_its_own() -> None:
    system = System(
        label="x", kind="openvino-notebook", bundle="b", threads=1, python="/venv/bin/python"
    )
    python, program, told, memory = command_of(system)
    assert (python, Path(program)) == ("/venv/bin/python", PROGRAM)
    assert json.loads(told)["kind"] == "openvino-notebook"
    assert Path(memory).name == "system.py"
    tree = ast.parse(PROGRAM.read_text())
    named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
             for alias in node.names}  # fmt: skip
    named |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    packages = {name.partition(".")[0] for name in named} - {*sys.stdlib_module_names}
    assert packages == {"numpy", "torch", "PIL"}, "and three, imported by their names"


def load_program() -> Any:
    specification = importlib.util.spec_from_file_location("notebook_program", PROGRAM)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_its_decoder_is_transformers_own_step_by_step(tiny_checkpoint: Path) -> None:
    """With caches that grow, and rows that `beam_idx` picks."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("openvino")
    if not native(tiny_checkpoint):
        pytest.skip("this checkpoint is in Microsoft's layout")
    program = load_program()
    model = transformers.Florence2ForConditionalGeneration.from_pretrained(
        tiny_checkpoint, local_files_only=True
    ).eval()
    text = model.config.text_config
    heads = text.decoder_attention_heads
    head_dim = text.d_model // heads
    encoded = torch.from_numpy(
        np.random.default_rng(0).normal(size=(1, 7, text.d_model)).astype(np.float32)
    ).expand(2, -1, -1)
    steps = [([2, 2], [0, 1]), ([5, 8], [0, 1]), ([9, 4], [1, 0])]  # tokens, and whom they continue
    sequences = torch.tensor([[2, 8, 9], [2, 5, 4]])
    decoder = program.Decoder(model).eval()
    caches = [torch.zeros(2, heads, 0, head_dim)] * 2 * text.decoder_layers
    with torch.inference_mode():
        crossed = program.CrossKeysValues(model)(encoded)
        for tokens, rows in steps:
            token, picked = torch.tensor(tokens)[:, None], torch.tensor(rows)
            logits, *caches = decoder(token, picked, *crossed, *caches)
        hidden = model.model.language_model.decoder(
            input_ids=sequences, encoder_hidden_states=encoded, use_cache=False
        ).last_hidden_state
        expected = model.lm_head(hidden)[:, -1:]
    assert caches[0].shape == (2, heads, 3, head_dim)
    assert torch.allclose(logits, expected, atol=1e-4)


@pytest.fixture(scope="module")
def notebook(miniature_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The system over models of OpenVINO without 8-bit weights: it answers as the model does."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    pytest.importorskip("openvino")
    folder = tmp_path_factory.mktemp("notebook")
    write_request("miniature", miniature_bundle, [OD], folder)
    uncompressed = SimpleNamespace(compress_weights=lambda model: model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "nncf", uncompressed)
        return load_program().Notebook({"checkpoint": str(folder), "threads": 1})


TRACED = pytest.mark.filterwarnings("ignore")  # OpenVINO has torch trace, which is deprecated


@TRACED
@pytest.mark.slow
def test_it_answers_as_the_bundle_does_picture_after_picture(
    notebook: Any, miniature_bundle: Path, picture: Path, tmp_path: Path
) -> None:
    other = tmp_path / "turned.png"
    with Image.open(picture) as opened:
        opened.convert("RGB").transpose(Image.Transpose.ROTATE_90).save(other)
    ours, answers = BundleSystem.load(miniature_bundle, CPU, 1), []
    for image, beams in ((picture, 3), (other, 3), (other, 1), (picture, 3)):
        workload = replace(OD, beams=beams, new_tokens=None, image=str(image))
        found = notebook.answer(asdict(workload))
        assert found["token_ids"] == [list(each) for each in ours.answer(workload).token_ids]
        answers.append(found["token_ids"][0])
    assert answers[0] == answers[3] != answers[1], "each picture has its own keys and values"
    with pytest.raises(ValueError, match="one picture at a time"):
        notebook.answer({**asdict(OD), "batch": 2})


@TRACED
@pytest.mark.slow
def test_keys_and_values_of_the_picture_are_computed_in_the_first_step_alone(
    notebook: Any,
) -> None:
    """What is given as the encoder's output later on is not looked at, as in the notebook."""
    request = notebook.decoder.request
    width = notebook.model.config.text_config.d_model
    random = np.random.default_rng(0)
    encoded, other = (random.normal(size=(2, 7, width)).astype(np.float32) for _ in range(2))

    rows = np.arange(2, dtype=np.int32)

    def logits(*given: np.ndarray) -> np.ndarray:
        notebook.decoder.start(2)
        for hidden in given:
            request.infer({"token": np.array([[5], [6]]), "beam_idx": rows, "encoded": hidden})
        return np.array(request.get_tensor("logits").data)

    assert np.array_equal(logits(encoded, encoded), logits(encoded, other))
    assert not np.allclose(logits(encoded), logits(other))
    assert {state.name for state in request.query_state()} >= {"cross.0", "cross.1"}
