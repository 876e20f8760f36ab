"""The checkpoint that optimum's program is given; the program runs in another environment."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from florence_edge_benchmarks.speed.process import command_of
from florence_edge_benchmarks.systems import optimum
from florence_edge_benchmarks.systems.optimum.checkpoint import write_bart
from florence_edge_benchmarks.systems.system import System
from florence_edge_benchmarks.systems.workload import Workload

PROGRAM = Path(str(optimum.__file__)).parent / "program.py"


@pytest.fixture(scope="module")
def bart(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("bart")
    asked = [
        Workload(task=task, beams=1, new_tokens=4, batch=1, image="a.jpg")
        for task in ("OD", "REGION_TO_OCR")
    ]
    write_bart(str(tiny_checkpoint), tiny_bundle, asked, folder)
    return folder


def test_transformers_reads_it_as_a_whole_bart(bart: Path, tiny_checkpoint: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from florence_edge_export.checkpoint.loader import read_checkpoint
    from florence_edge_export.verify.reference import Reference

    model, info = transformers.BartForConditionalGeneration.from_pretrained(
        bart, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ours = Reference(read_checkpoint(tiny_checkpoint)).model
    ids = torch.arange(4, 24)[None]
    with torch.inference_mode():
        hidden = model.model.encoder(input_ids=ids).last_hidden_state
        language = ours.model.language_model
        words = language.get_input_embeddings()(ids)
        expected = language.encoder(inputs_embeds=words).last_hidden_state
    assert torch.allclose(hidden, expected, atol=1e-5)


def test_the_source_is_as_long_as_picture_and_prompt(bart: Path) -> None:
    asked = json.loads((bart / "request.json").read_text())
    lengths = asked["source_lengths"]
    assert 5 < lengths["OD"] < 100
    assert set(lengths) == {"OD", "REGION_TO_OCR"}
    assert asked["no_repeat_ngram_size"] == 3


def test_the_program_loads_the_reader_of_memory_that_it_is_given_by_path() -> None:
    (_, program, _, reader) = command_of(
        System(label="optimum", kind="optimum", bundle="b", threads=1, python="python")
    )
    assert program == str(PROGRAM)
    command = f"import runpy; program = runpy.run_path({program!r}); "
    command += f"print(program['load_module']({reader!r}).peak_bytes.__name__)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", command], check=True, capture_output=True, text=True
    )
    assert done.stdout == "peak_bytes\n"


def test_the_program_imports_nothing_that_its_environment_lacks() -> None:
    tree = ast.parse(PROGRAM.read_text())
    named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
             for alias in node.names}  # fmt: skip
    named |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    packages = {name.partition(".")[0] for name in named} - {*sys.stdlib_module_names}
    assert packages == {"onnxruntime", "torch"}, "and optimum, which is imported by its name"
