"""florence-serve as replicas of Ray Serve: several machines behind one address.

    pip install ".[cpu,serve]" "ray[serve]"
    FLORENCE_BUNDLE=bundle serve run app:app        # in this folder, or
    python examples/ray_serve/app.py bundle 2               # two replicas on this machine

A device never needs it: one process has the engine, and a second would only share it. Each replica
loads the bundle from the same path, and has a queue of its own.
"""

import os
import sys
import time
from typing import Any

from ray import serve

from florence_edge import Florence2
from florence_edge_serve.app import create_app
from florence_edge_serve.settings import Settings


def replica() -> Any:
    """The whole application, made in the process that serves it."""
    bundle = os.environ["FLORENCE_BUNDLE"]
    return create_app(Florence2.load(bundle, threads=1), Settings(queue=32))


@serve.deployment(ray_actor_options={"num_cpus": 1}, max_ongoing_requests=64)
@serve.ingress(replica)
class Florence:
    """A replica; Ray sends each request to the one with the shortest queue."""


app = Florence.bind()  # type: ignore[attr-defined]  # the decorator gives a deployment


def main() -> None:
    os.environ["FLORENCE_BUNDLE"] = os.path.abspath(sys.argv[1])
    replicas = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    deployment = Florence.options(num_replicas=replicas)  # type: ignore[attr-defined]
    serve.run(deployment.bind())
    print("http://127.0.0.1:8000/v1/answers")
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
