"""The peer that does as OpenVINO's notebook: what it is told, and its decoder against the model."""

import ast
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from florence_edge import Bundle, RequestError
from florence_edge.tokenizer import Tokenizer
from florence_edge_benchmarks.speed.process import PROGRAMS, command_of
from florence_edge_benchmarks.systems.openvino_notebook.request import write_request
from florence_edge_benchmarks.systems.system import System
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
        for tokens, rows in steps:
            token, picked = torch.tensor(tokens)[:, None], torch.tensor(rows)
            logits, *caches = decoder(token, encoded, picked, *caches)
        hidden = model.model.language_model.decoder(
            input_ids=sequences, encoder_hidden_states=encoded, use_cache=False
        ).last_hidden_state
        expected = model.lm_head(hidden)[:, -1:]
    assert caches[0].shape == (2, heads, 3, head_dim)
    assert torch.allclose(logits, expected, atol=1e-4)
