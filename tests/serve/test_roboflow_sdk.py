"""Roboflow's own client, in an environment of its own: its pins differ from those of this one.

`make clients` makes that environment and runs this; or name its Python in FLORENCE_EDGE_CLIENTS.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from florence_edge import Florence2

from .serving import Server, picture

pytestmark = pytest.mark.slow

_PROGRAM = """
import json, sys
from inference_sdk import InferenceHTTPClient
client = InferenceHTTPClient(api_url=sys.argv[1], api_key="any")
print(json.dumps([client.infer_lmm(sys.argv[2], model_id="florence-2-base", prompt="<OD>",
                                   model_id_in_path=in_path) for in_path in (False, True)]))
"""


@pytest.fixture(scope="session")
def clients() -> str:
    """The Python that has the clients."""
    python = os.environ.get("FLORENCE_EDGE_CLIENTS")
    if python is None:
        pytest.skip("FLORENCE_EDGE_CLIENTS names no Python; `make clients` makes one")
    return python


def test_roboflows_client_asks_a_task(
    clients: str, server: Server, tiny_model: Florence2, tmp_path: Path
) -> None:
    path = tmp_path / "street.png"
    path.write_bytes(picture(3))
    done = subprocess.run(
        [clients, "-c", _PROGRAM, server.address, str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # The client sends the picture as JPEG, whose answer is that of the same JPEG.
    for reply in json.loads(done.stdout.splitlines()[-1]):
        assert set(reply["response"]) == {"<OD>"}
        assert reply["image"] == {"width": 60, "height": 50}
        assert reply["status"] in ("ok", "empty", "unparsed", "truncated")


def test_schemathesis_finds_no_500(clients: str, server: Server) -> None:
    """Whatever the OpenAPI document allows, and much that it forbids."""
    command = [str(Path(clients).with_name("schemathesis")), "run"]
    command += [server.address + "/openapi.json", "--checks", "not_a_server_error"]
    command += ["--max-examples", "40", "--seed", "7", "--exclude-path-regex", "mjpeg|/ready"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
