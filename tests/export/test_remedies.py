"""What a message tells to do is done, and leads to a bundle."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from florence_edge import Bundle
from florence_edge.errors import BundleError
from florence_edge_export.checkpoint import names
from florence_edge_export.checkpoint.config import Layout
from florence_edge_export.export import ExportOptions, export

pytestmark = pytest.mark.slow  # transformers is imported: seconds


def test_an_adapter_is_merged_and_exported_as_the_message_says(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.Florence2ForConditionalGeneration.from_pretrained(tiny_checkpoint)
    with pytest.raises(BundleError, match="not merged") as told:
        names.unwrapped_names(["model.q_proj.lora_A.weight"], Layout.NATIVE)
    statements = str(told.value).partition("beside it: ")[2]
    exec(
        statements,
        {
            "PeftModel": _Peft,
            "AutoTokenizer": transformers.AutoTokenizer,
            "model": model,
            "folder": "adapter",
            "new": tmp_path / "new",
            "ORIGINAL": tiny_checkpoint,
        },
    )
    export("merged", tmp_path / "new", tmp_path / "bundle", ExportOptions())
    assert Bundle.load(tmp_path / "bundle").model == "merged"


class _Peft:
    """peft's class, of which the remedy asks these two methods: its merge gives a plain model."""

    @staticmethod
    def from_pretrained(model: object, folder: str) -> SimpleNamespace:
        return SimpleNamespace(merge_and_unload=lambda: model)


def test_a_checkpoint_without_its_tokenizer_gets_it_as_the_message_says(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "tuned"
    model = transformers.Florence2ForConditionalGeneration.from_pretrained(tiny_checkpoint)
    model.save_pretrained(folder)
    with pytest.raises(BundleError, match=r"has no tokenizer\.json") as told:
        export("tuned", folder, tmp_path / "bundle", ExportOptions())
    exec(
        str(told.value).partition("with transformers: ")[2].removesuffix(")."),
        {
            "AutoTokenizer": transformers.AutoTokenizer,
            "ORIGINAL": tiny_checkpoint,
            "FOLDER": folder,
        },
    )
    export("tuned", folder, tmp_path / "bundle", ExportOptions())
    assert Bundle.load(tmp_path / "bundle").model == "tuned"
