"""The unit, and the images that serve."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from florence_edge_serve.cli import _parser

JETSON = Path(__file__).parents[2] / "jetson"
UNIT = (JETSON / "florence-serve.service").read_text(encoding="utf-8")


def settings_of_the_unit() -> dict[str, str]:
    lines = [line for line in UNIT.replace("\\\n", " ").splitlines() if not line.startswith("#")]
    return {name: value for name, found, value in (x.partition("=") for x in lines) if found}


def test_the_unit_is_one_that_systemd_understands(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    here = re.sub(r"/opt/\S+/florence-\w+", "/bin/true", UNIT)
    unit = tmp_path / "florence-serve.service"
    unit.write_text(here.replace("User=florence", "User=root"))
    done = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_starts_a_server_with_a_token() -> None:
    command = settings_of_the_unit()["ExecStart"].replace("${FLORENCE_PORT}", "8000")
    program, *arguments = command.replace("$FLORENCE_CAMERA", "--source 0 --task OD").split()
    assert program.endswith("/florence-serve")
    parsed = _parser().parse_args(arguments)
    assert str(parsed.token_file) == "/etc/florence-edge/token"
    assert parsed.source == "0"


def test_the_unit_gives_answers_the_time_to_end() -> None:
    unit = settings_of_the_unit()
    assert unit["Restart"] == "on-failure"
    assert int(unit["TimeoutStopSec"]) > 30


@pytest.mark.parametrize("version", [6, 7])
def test_the_images_serve_with_one_line(version: int) -> None:
    text = (JETSON / f"Dockerfile.jetpack{version}").read_text(encoding="utf-8")
    assert re.search(r"^ARG EXTRAS=\S*\bserve\b", text, re.MULTILINE)
    (line,) = [each for each in text.splitlines() if " florence-serve /bundle" in each]
    arguments = shlex.split(line.lstrip("# ").split(" florence-serve ")[1])
    parsed = _parser().parse_args(arguments)
    assert (parsed.host, parsed.device) == ("0.0.0.0", "tensorrt")
    assert "-p 8000:8000" in line


@pytest.mark.parametrize("version", [6, 7])
def test_the_images_get_all_that_the_wheel_is_built_of(version: int) -> None:
    text = (JETSON / f"Dockerfile.jetpack{version}.dockerignore").read_text(encoding="utf-8")
    given = {line[1:] for line in text.splitlines() if line.startswith("!")}
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 has it")
    project = tomllib.loads((JETSON.parent / "pyproject.toml").read_text(encoding="utf-8"))
    hatch = project["tool"]["hatch"]
    files = [project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml"]
    files += [hatch["version"]["path"], *hatch["build"]["targets"]["wheel"]["packages"]]
    assert {file.partition("/")[0] for file in files} <= given
