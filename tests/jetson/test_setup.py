"""The scripts, the unit and the Dockerfiles of jetson/, as far as no Jetson is needed."""

import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from florence_edge.cli.arguments import parse_arguments
from florence_edge_jetson.doctor import cli as doctor

from .recorded_boards import board_tree, write_tree

JETSON = Path(__file__).parents[2] / "jetson"
SCRIPTS = sorted(JETSON.glob("**/*.sh"))
DOCKERFILES = sorted(path for path in JETSON.glob("Dockerfile.*") if path.suffix != ".dockerignore")

FAKE_NVPMODEL = """#!/bin/sh
echo "nvpmodel $*" >> "$CALLS"
if [ "$1" = -q ]; then printf 'NV Power Mode: 25W\\n1\\n'; fi
"""


def tool(name: str) -> str:
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"pip install {name}-py" if name == "shellcheck" else f"pip install {name}-bin")
    return found


def run(script: str, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", str(JETSON / script), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_pass_shellcheck_and_can_be_executed(script: Path) -> None:
    assert os.access(script, os.X_OK)
    done = subprocess.run([tool("shellcheck"), str(script)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles_pass_hadolint(dockerfile: Path) -> None:
    done = subprocess.run([tool("hadolint"), str(dockerfile)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_images_have_no_torch_no_root_a_health_check_and_say_they_were_not_built(
    dockerfile: Path,
) -> None:
    text = dockerfile.read_text()
    assert "torch" not in text
    assert re.search(r"^USER [1-9]", text, re.M)
    assert 'CMD ["florence-doctor"]' in text
    assert "HEALTHCHECK" in text
    assert "NOT BUILT HERE" in text


def test_there_is_one_image_a_generation() -> None:
    assert [path.suffix for path in DOCKERFILES] == [".jetpack6", ".jetpack7"]


@pytest.mark.parametrize(
    ("name", "python", "extra", "packages"),
    [
        ("orin-nano", "python3.10", "tensorrt-cu12", "python3-libnvinfer nvidia-l4t-dla-compiler"),
        ("agx-orin", "python3.12", "tensorrt-cu13", "python3-libnvinfer"),
        ("thor", "python3.12", "tensorrt-cu13", "python3-libnvinfer"),
    ],
)
def test_set_up_takes_what_belongs_to_the_jetpack(
    name: str, python: str, extra: str, packages: str, tmp_path: Path
) -> None:
    board_tree(name, tmp_path)
    venv = tmp_path / "venv"
    done = run("setup.sh", "--dry-run", "--venv", str(venv), FLORENCE_ROOT=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert f"{python} -m venv --system-site-packages {venv}" in done.stdout
    camera = "python3-gi gir1.2-gst-plugins-base-1.0"  # CSI cameras, through GStreamer
    assert f" {python}-venv {packages} {camera}\n" in done.stdout
    assert f"[cpu,camera,{extra}]" in done.stdout
    assert not venv.exists()


def test_set_up_leaves_alone_what_is_there(tmp_path: Path) -> None:
    board_tree("orin-nx", tmp_path)  # has a swap file
    python = tmp_path / "venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text("")
    python.chmod(0o755)
    venv = str(tmp_path / "venv")
    done = run("setup.sh", "--venv", venv, "--swap", "8", FLORENCE_ROOT=str(tmp_path))
    assert "-m venv" not in done.stdout
    assert "mkswap" not in done.stdout


def test_set_up_makes_swap_where_it_is_asked_to(tmp_path: Path) -> None:
    board_tree("orin-nano", tmp_path)  # has zram alone
    done = run("setup.sh", "--dry-run", "--swap", "8", FLORENCE_ROOT=str(tmp_path))
    assert "fallocate -l 8G /swapfile" in done.stdout


@pytest.mark.parametrize("release", ["# R36 (release), REVISION: 3.0, GCID: 1\n", None])
def test_set_up_refuses_old_jetpacks_and_other_machines(
    release: str | None, tmp_path: Path
) -> None:
    board_tree("orin-nano", tmp_path, etc_nv_tegra_release=release)
    done = run("setup.sh", "--dry-run", FLORENCE_ROOT=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "JetPack 6.1 to 7.2" in done.stderr or "not a Jetson" in done.stderr


def test_wrong_usage_of_the_scripts_ends_with_2() -> None:
    assert run("setup.sh", "--fast").returncode == 2
    assert run("power-mode.sh", "--fast").returncode == 2


def power_mode(tmp_path: Path, board: str, *arguments: str) -> tuple[str, str, list[str]]:
    """Output, errors, and the calls that reached nvpmodel and jetson_clocks."""
    board_tree(board, tmp_path / "root")
    calls = tmp_path / "calls"
    write_tree(tmp_path / "bin", {"/nvpmodel": FAKE_NVPMODEL, "/id": "#!/bin/sh\necho 0\n"})
    write_tree(tmp_path / "bin", {"/jetson_clocks": '#!/bin/sh\necho clocks >> "$CALLS"\n'})
    for file in (tmp_path / "bin").iterdir():
        file.chmod(0o755)
    done = run(
        "power-mode.sh",
        *arguments,
        FLORENCE_ROOT=str(tmp_path / "root"),
        CALLS=str(calls),
        PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}",
    )
    return done.stdout, done.stderr, calls.read_text().splitlines() if calls.exists() else []


def test_the_power_mode_is_only_read_unless_it_shall_be_set(tmp_path: Path) -> None:
    out, _, calls = power_mode(tmp_path, "orin-nano")
    assert calls == ["nvpmodel -q"]
    assert "NV Power Mode: 25W" in out
    assert "  2 MAXN_SUPER" in out
    assert "17000000.gpu: 306 MHz now, up to 918 MHz" in out


@pytest.mark.parametrize(
    ("board", "wanted", "number"),
    [
        ("orin-nano", "max", "2"),
        ("orin-nano", "7W", "3"),
        ("orin-nano", "0", "0"),
        ("thor", "max", "0"),
        ("agx-orin", "MODE_30W", "2"),
    ],
)
def test_a_mode_is_looked_up_by_its_name_on_this_board(
    board: str, wanted: str, number: str, tmp_path: Path
) -> None:
    _, _, calls = power_mode(tmp_path, board, "--set", wanted)
    assert calls == [f"nvpmodel -m {number}", "nvpmodel -q"]


def test_clocks_are_locked_on_request_only(tmp_path: Path) -> None:
    _, _, calls = power_mode(tmp_path, "thor", "--set", "max", "--lock")
    assert calls == ["nvpmodel -m 0", "clocks", "nvpmodel -q"]


def test_a_mode_that_the_board_lacks_sets_nothing(tmp_path: Path) -> None:
    _, errors, calls = power_mode(tmp_path, "thor", "--set", "15W")
    assert calls == []
    assert "no mode 15W" in errors
    assert "120W" in errors


def test_the_unit_is_one_that_systemd_understands(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    unit = (JETSON / "florence-edge.service").read_text()
    here = re.sub(r"/opt/\S+/florence-\w+", "/bin/true", unit).replace("User=florence", "User=root")
    (tmp_path / "florence-edge.service").write_text(here)
    done = subprocess.run(
        [analyze, "verify", str(tmp_path / "florence-edge.service")], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_gives_up_instead_of_crashing_in_a_loop() -> None:
    unit = settings_of_the_unit()
    assert unit["Restart"] == "on-failure"
    slowest = 60 * int(unit["TimeoutStartSec"].removesuffix("min")) + int(unit["RestartSec"])
    assert int(unit["StartLimitBurst"]) * slowest < int(unit["StartLimitIntervalSec"])


def settings_of_the_unit() -> dict[str, str]:
    unit = (JETSON / "florence-edge.service").read_text().replace("\\\n", " ")
    lines = [line for line in unit.splitlines() if "=" in line and not line.startswith("#")]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def test_the_unit_waits_for_its_camera_for_ever() -> None:
    program, *arguments = settings_of_the_unit()["ExecStart"].split()
    assert program.endswith("/florence-run")
    parsed = parse_arguments(arguments)
    assert (parsed.wait, parsed.patience) == (True, math.inf)


def test_the_unit_examines_quickly_before_it_starts() -> None:
    program, *arguments = settings_of_the_unit()["ExecStartPre"].split()
    assert program.endswith("/florence-doctor")
    parsed = doctor._parser().parse_args(arguments)
    assert parsed.quick
    assert (str(parsed.bundle), parsed.device) == ("${FLORENCE_BUNDLE}", "${FLORENCE_DEVICE}")
