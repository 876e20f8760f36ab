"""The JavaScript package without an engine: its own tests, on cases that Python writes."""

import json
import re
import shutil
from pathlib import Path

import pytest

from florence_edge import __version__
from florence_edge.files import read_json

from .cases import write_cases
from .machines import HERE, NEEDS_NODE, NEEDS_PACKAGES, ROOT, run_node

pytestmark = NEEDS_NODE
PACKAGE = ROOT / "js"


def test_the_package_does_what_the_python_runtime_does(tmp_path: Path) -> None:
    write_cases(tmp_path)
    tests = sorted(HERE.glob("*.test.mjs"))
    assert len(tests) == 4
    said = run_node(["--test", *tests], timeout=120, FLORENCE_EDGE_CASES=str(tmp_path))
    assert re.search(r"# pass [1-9]\d", said), said
    assert "# skipped 0" in said, said


def test_the_types_name_what_the_package_has() -> None:
    types = (PACKAGE / "florence_edge_js" / "index.d.ts").read_text()
    declared = re.findall(r"^export (?:class|function|const) (\w+)", types, re.MULTILINE)
    names = (
        f"import * as all from '{PACKAGE / 'florence_edge_js' / 'index.js'}';"
        "console.log(Object.keys(all).join(' '))"
    )
    found = run_node(["--input-type=module", "-e", names], timeout=60).split()
    assert sorted(declared) == sorted(found)


@pytest.mark.slow
@NEEDS_PACKAGES
@pytest.mark.parametrize(
    ("module", "resolution", "libraries"),
    [
        ("nodenext", "nodenext", ["es2022"]),
        ("esnext", "bundler", ["es2022", "dom", "dom.iterable"]),
    ],
    ids=["node", "browser"],
)
def test_a_program_with_types_compiles(
    module: str, resolution: str, libraries: list[str], tmp_path: Path
) -> None:
    packages = tmp_path / "node_modules"
    packages.mkdir()
    (packages / "florence-edge").symlink_to(PACKAGE)
    for name in ("onnxruntime-node", "onnxruntime-common"):
        (packages / name).symlink_to(HERE / "node_modules" / name)
    shutil.copy(HERE / "user.ts", tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    options = {
        "noEmit": True,
        "strict": True,
        "preserveSymlinks": True,
        "types": [],
        "module": module,
        "moduleResolution": resolution,
        "lib": libraries,
    }
    settings = {"compilerOptions": options, "files": ["user.ts"]}
    (tmp_path / "tsconfig.json").write_text(json.dumps(settings))
    compiler = HERE / "node_modules" / "typescript" / "lib" / "tsc.js"
    assert run_node([compiler, "-p", tmp_path], timeout=300) == ""


def test_the_package_packs_what_it_needs_and_no_more() -> None:
    manifest = read_json(PACKAGE / "package.json")
    code = PACKAGE / "florence_edge_js"
    packed = {path for pattern in manifest["files"] for path in PACKAGE.glob(pattern)}
    assert packed == {path for path in code.iterdir() if path.suffix in (".js", ".ts")}
    for file in packed:  # what they import is there
        for name in re.findall(
            r"^(?:import|export)[^;]*? from \"(\./[^\"]+)\"", file.read_text(), re.M
        ):
            assert code / name in packed, (file, name)
    targets = [
        manifest["types"],
        *manifest["exports"]["."].values(),
        *manifest["imports"]["#disk"].values(),
    ]
    assert {PACKAGE / target for target in targets} <= packed
    assert all((PACKAGE / name).is_file() for name in ("README.md", "LICENSE"))  # npm takes these


def test_the_package_is_of_the_project_s_version() -> None:
    ours = __version__.replace(".dev", "-dev.")  # as npm writes it
    assert read_json(PACKAGE / "package.json")["version"] == ours
