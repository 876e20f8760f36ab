"""Where the JavaScript package runs in these tests: node, and Chromium before a folder's server."""

import json
import os
import shutil
import subprocess
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseServer
from threading import Thread
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NODE = shutil.which("node") or ""
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), "")

NEEDS_NODE = pytest.mark.skipif(not NODE, reason="no node: apt install nodejs npm")
NEEDS_PACKAGES = pytest.mark.skipif(
    not (HERE / "node_modules" / "onnxruntime-web").is_dir(),
    reason="no onnxruntime: make tests/js/node_modules/installed",
)
NEEDS_CHROMIUM = pytest.mark.skipif(not CHROMIUM, reason="no chromium: apt install chromium")


def run_node(arguments: Sequence[str | Path], *, timeout: float, **environment: str) -> str:
    """What a program prints; it must succeed."""
    done = subprocess.run(
        [NODE, *map(str, arguments)],
        cwd=HERE,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-4000:]}"
    return done.stdout


class _Files(SimpleHTTPRequestHandler):
    """Files of a folder, in a page that is isolated, as docs/javascript.md says; /stop ends it."""

    extensions_map = {  # noqa: RUF012 - as there
        **SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }
    isolated = True

    def end_headers(self) -> None:
        if self.isolated:
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def do_GET(self) -> None:
        if self.path == "/stop":
            Thread(target=_stop, args=[self.server]).start()
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def _stop(server: BaseServer) -> None:
    server.shutdown()
    server.server_close()


class _PlainFiles(_Files):
    isolated = False


@contextmanager
def served(folder: Path, *, isolated: bool = True) -> Generator[str, None, None]:
    """The address of a folder, links followed."""
    files = partial(_Files if isolated else _PlainFiles, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), files)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://localhost:{server.server_port}/"
    finally:
        _stop(server)
        thread.join()


def answered(program: str, plan: dict[str, Any], folder: Path, *, timeout: float) -> Any:
    """What answer_in_node.mjs or answer_in_chromium.mjs observes of a plan."""
    asked, observed = folder / "plan.json", folder / "observed.json"
    asked.write_text(json.dumps(plan))
    run_node([HERE / program, asked, observed], timeout=timeout)
    return json.loads(observed.read_text())
