"""What mkdocs does to the pages of docs/: help texts come in, files of the repository come along.

`<!-- help florence-run -->` becomes what the command prints. A link to a file outside docs/, such
as `../results/speed/base_cpu.json`, leads to a copy of it in the site.
"""

import io
import os
import re
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
COPIES = "repository"

COMMANDS = {
    "florence-run": "florence_edge.cli.main",
    "florence-export": "florence_edge_export.cli",
    "florence-build": "florence_edge_export.tensorrt_build.cli",
    "florence-calibrate": "florence_edge_calibration.cli",
    "florence-bench": "florence_edge_benchmarks.cli",
    "florence-doctor": "florence_edge_jetson.doctor.cli",
    "florence-bag": "florence_edge_jetson.robots.bag.cli",
    "florence-serve": "florence_edge_serve.cli",
    "florence-label": "florence_edge_label.cli",
}

_HELP = re.compile(r"<!-- help ([\w -]+) -->")
_OUTSIDE = re.compile(r"\]\(\.\./([^)#\s]+)\)")


def help_of(command: str) -> str:
    """What a command, or a sub-command such as `florence-bench speed`, prints for --help."""
    name, *rest = command.split()
    main = import_module(COMMANDS[name]).main
    printed = io.StringIO()
    columns = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "90"
    try:
        with redirect_stdout(printed):
            main([*rest, "--help"])
    except SystemExit:
        pass
    finally:
        os.environ.pop("COLUMNS")
        os.environ.update({"COLUMNS": columns} if columns else {})
    return printed.getvalue().rstrip()


def on_page_markdown(markdown: str, *, config: MkDocsConfig, files: Files, **_: Any) -> str:
    """Put in help texts, and bring linked files of the repository along."""

    def copied(link: re.Match[str]) -> str:
        name = link[1]
        if not (ROOT / name).is_file():
            raise PluginError(f"A page links to {name}, and there is no such file.")
        target = f"{COPIES}/{name}"
        if files.get_file_from_path(target) is None:
            files.append(File.generated(config, target, abs_src_path=str(ROOT / name)))
        return f"]({target})"

    markdown = _HELP.sub(lambda found: f"```text\n{help_of(found[1])}\n```", markdown)
    return _OUTSIDE.sub(copied, markdown)
