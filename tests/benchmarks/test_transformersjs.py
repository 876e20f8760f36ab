"""The peer transformers.js: what its program is told, and that it answers as other systems do."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from florence_edge import BackendError, Bundle, RequestError
from florence_edge_benchmarks.speed.process import PROGRAMS, SystemProcess, command_of
from florence_edge_benchmarks.speed.start import import_seconds
from florence_edge_benchmarks.systems.system import System
from florence_edge_benchmarks.systems.transformers_js import request
from florence_edge_benchmarks.systems.transformers_js.request import find_node, write_request
from florence_edge_benchmarks.systems.workload import Workload, scene_picture
from florence_edge_benchmarks.timing import STAGES
from florence_edge_export.checkpoint import loader

MODULES = Path(__file__).parents[1] / "export" / "transformers_js" / "node_modules"
CAPTION = Workload(task="CAPTION", beams=1, new_tokens=6, batch=1, image="")


def system(folder: Path) -> System:
    return System(
        label="transformersjs",
        kind="transformersjs",
        bundle="b",
        threads=1,
        checkpoint=str(folder),
        python="/usr/bin/node",
    )


def test_it_runs_in_node(tmp_path: Path) -> None:
    node, program, told, _ = command_of(system(tmp_path))
    assert node == "/usr/bin/node"
    assert Path(program) == PROGRAMS["transformersjs"]
    assert Path(program).is_file()
    assert json.loads(told)["threads"] == 1


def test_a_folder_without_the_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="npm install @huggingface/transformers"):
        write_request("miniature", tmp_path, [CAPTION], tmp_path / "work", str(tmp_path))


def _left_there(model: Path, sha256: str, side: int) -> None:
    model.mkdir(parents=True)
    (model / "manifest.json").write_text(json.dumps({"model": {"sha256": sha256}}))
    size = {"height": side, "width": side}
    (model / "preprocessor_config.json").write_text(json.dumps({"size": size}))


def test_a_model_that_is_there_is_taken_if_it_is_the_bundles(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, exported = tmp_path / "modules" / request.PACKAGE, list[Any]()
    package.mkdir(parents=True)
    (package / "package.json").touch()
    monkeypatch.setattr(request, "export_layout", lambda *given: exported.append(given))

    def ask(checkpoint: Path, work: Path) -> None:
        write_request(str(checkpoint), tiny_bundle, [CAPTION], work, str(tmp_path / "modules"))

    bundle = Bundle.load(tiny_bundle)
    side = bundle.size.image_size
    ask(tiny_checkpoint, tmp_path / "new")
    [(_, source, model, options)] = exported
    assert (source, model) == (tiny_checkpoint, tmp_path / "new" / "model")
    assert options.image_size == side
    _left_there(tmp_path / "same" / "model", bundle.checkpoint, side)
    ask(tiny_checkpoint, tmp_path / "same")
    _left_there(tmp_path / "weights" / "model", "another", side)
    _left_there(tmp_path / "size" / "model", bundle.checkpoint, side + 32)
    (tmp_path / "nothing" / "model").mkdir(parents=True)
    for work, says in (
        ("weights", "another checkpoint"),
        ("size", f"{side + 32} pixels, the bundle's are {side}"),
        ("nothing", "not a model in transformers.js' layout"),
    ):
        with pytest.raises(RequestError, match=f"{says}.*Remove it, or choose another --work"):
            ask(tiny_checkpoint, tmp_path / work)
    assert len(exported) == 1


def test_a_checkpoint_that_is_not_the_bundles_is_refused(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other:
        def sha256(self) -> str:
            return "another"

    monkeypatch.setattr(loader, "read_checkpoint", lambda _: Other())
    package = tmp_path / request.PACKAGE
    package.mkdir(parents=True)
    (package / "package.json").touch()
    with pytest.raises(RequestError, match=r"was not exported from .* --checkpoint DIR"):
        write_request(
            str(tiny_checkpoint), tiny_bundle, [CAPTION], tmp_path / "work", str(tmp_path)
        )
    assert not (tmp_path / "work").exists()


@pytest.mark.slow
def test_it_answers_and_says_what_it_cannot(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    modules = MODULES
    if shutil.which("node") is None or not modules.is_dir():
        pytest.skip("needs node, and npm ci in tests/export/transformers_js")
    image = str(scene_picture(tmp_path))
    work = tmp_path / "work"
    write_request(str(tiny_checkpoint), tiny_bundle, [CAPTION], work, str(modules))
    peer = System(
        label="transformersjs",
        kind="transformersjs",
        bundle=str(tiny_bundle),
        threads=1,
        checkpoint=str(work),
        python=find_node(),
    )
    assert import_seconds(peer) > 0
    asked = [
        Workload(task="CAPTION", beams=beams, new_tokens=6, batch=batch, image=image)
        for beams, batch in ((1, 1), (3, 1), (1, 2))
    ]
    with SystemProcess(peer) as running:
        timing = running.answer(asked[0])
        assert set(timing.stages) == set(STAGES)
        assert sum(timing.stages.values()) == pytest.approx(timing.seconds, rel=0.01)
        assert len(timing.steps) == 6
        with pytest.raises(BackendError, match="no beam search"):
            running.answer(asked[1])
        with pytest.raises(BackendError, match="one picture"):
            running.answer(asked[2])
        assert (running.memory()["resident_bytes"] or 0) > 0
