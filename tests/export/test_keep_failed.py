"""A bundle that --verify refuses: gone unless it is asked for, and then whole."""

from pathlib import Path
from typing import NoReturn

import pytest

from florence_edge.bundle import Bundle
from florence_edge.errors import BundleError, RequestError
from florence_edge_export import export as export_module
from florence_edge_export.export import ExportOptions, export


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise BundleError("Answers differ from transformers.")

    monkeypatch.setattr(export_module, "_verify", refuse)
    monkeypatch.setattr(export_module, "check_installed", lambda: None)


@pytest.mark.usefixtures("refusing")
def test_a_bundle_that_is_refused_is_kept_aside_on_request(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    output, aside = tmp_path / "out", tmp_path / "out.failed"
    wanted = ExportOptions(verify=True, tensorrt_decoders=False)
    with pytest.raises(BundleError, match=r"^Answers differ from transformers\.$"):
        export("tiny", tiny_checkpoint, output, wanted)
    assert list(tmp_path.iterdir()) == []
    kept = ExportOptions(verify=True, tensorrt_decoders=False, keep_failed=True)
    with pytest.raises(BundleError, match=r"The bundle that was refused is in .*out\.failed"):
        export("tiny", tiny_checkpoint, output, kept)
    Bundle.load(aside).check_content()
    assert list(tmp_path.iterdir()) == [aside]
    with pytest.raises(RequestError, match=r"out\.failed exists"):  # before the work is done
        export("tiny", tiny_checkpoint, output, kept)


def test_keeping_needs_a_verification(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="Give both"):
        export("tiny", tiny_checkpoint, tmp_path / "out", ExportOptions(keep_failed=True))
