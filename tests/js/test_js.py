"""The JavaScript package without an engine: its own tests, on cases that Python writes."""

import re
from pathlib import Path

from florence_edge import __version__
from florence_edge.files import read_json

from .cases import write_cases
from .machines import HERE, NEEDS_NODE, ROOT, run_node

pytestmark = NEEDS_NODE
PACKAGE = ROOT / "js"


def test_the_package_does_what_the_python_runtime_does(tmp_path: Path) -> None:
    write_cases(tmp_path)
    tests = sorted(HERE.glob("*.test.mjs"))
    assert len(tests) == 3
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


def test_the_package_is_of_the_project_s_version() -> None:
    ours = __version__.replace(".dev", "-dev.")  # as npm writes it
    assert read_json(PACKAGE / "package.json")["version"] == ours
