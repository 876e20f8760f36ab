"""optimum-cli export florence-edge, in an environment of its own with the newest optimum."""

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

PACKAGE = Path(__file__).parents[2] / "export" / "optimum"


@pytest.fixture(scope="module")
def optimum_cli(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """optimum and ours beside the packages of this environment; skipped without an index."""
    environment = tmp_path_factory.mktemp("optimum") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = environment / "bin" / "python"
    paths = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    here = sysconfig.get_path("purelib")
    # addsitedir, so that editable installs there are found, too.
    line = f"import site; site.addsitedir({here!r})\n"
    Path(paths.stdout.strip(), "beside.pth").write_text(line)
    installed = subprocess.run(
        [python, "-m", "pip", "install", "-q", "--no-deps", "optimum", "optimum-onnx", PACKAGE],
        capture_output=True,
        text=True,
    )
    if installed.returncode:
        pytest.skip(f"pip could not install optimum: {installed.stderr[-300:]}")
    return environment / "bin" / "optimum-cli"


@pytest.mark.slow
def test_optimum_exports_a_bundle_and_the_other_layout(
    optimum_cli: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    command = [str(optimum_cli), "export", "florence-edge", "-m", str(tiny_checkpoint)]
    quiet = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, str(tmp_path / "bundle"), "--portable-decoder"],
        capture_output=True,
        text=True,
        env=quiet,
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["precision"] == "fp32"
    layout = ["--layout", "transformers.js", "--dtypes", "fp32"]
    subprocess.run([*command, str(tmp_path / "files"), *layout], env=quiet, check=True)
    assert (tmp_path / "files" / "onnx" / "decoder_model_merged.onnx").exists()

    again = subprocess.run(
        [*command, str(tmp_path / "bundle")], capture_output=True, text=True, env=quiet
    )
    assert again.returncode == 1
    assert "optimum-cli export florence-edge:" in again.stderr
    assert "--overwrite" in again.stderr
    assert "Traceback" not in again.stderr
    listed = subprocess.run(
        [str(optimum_cli), "export", "--help"], capture_output=True, text=True, env=quiet
    )
    assert "florence-edge" in listed.stdout
    assert "onnx" in listed.stdout


def test_without_it_there_is_no_folder_that_others_take_for_optimum() -> None:
    """transformers and peft ask for a module `optimum` by name alone."""
    found = importlib.util.find_spec("optimum")
    if found is None:
        return
    places = list(found.submodule_search_locations or ())
    assert not any(PACKAGE in Path(place).resolve().parents for place in places)
