"""Opens a bundle on the stand-in and takes steps; the stand-in's log then has a section for each.

    python trace.py BUNDLE BEAMS STEPS

Prints JSON: where ONNX Runtime's nodes are, and whether the decoder's steps are captured.
"""

import ctypes
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from florence_edge import contract
from florence_edge.backends import ort
from florence_edge.backends.gpu_memory import GpuFeatures
from florence_edge.backends.open import open_backend
from florence_edge.bundle import Bundle


def main(folder: str, beams: int, steps: int) -> None:
    providers = _record_providers()
    bundle = Bundle.load(folder)
    backend: Any = open_backend(bundle, "cuda")
    section = _sections()
    size, model = bundle.size, backend.model
    section("vision")
    features = model.cuda.array((1, size.image_tokens, size.d_model), model.floats)
    kept = GpuFeatures(backend, model.cuda, features)
    ids, mask = np.full((1, 8), 5), np.ones((1, size.image_tokens + 8), dtype=np.int64)
    for answer in range(2):
        section(f"prefill {answer}")
        decoder = backend.prefill(kept, ids, mask, beams=beams)
        own = np.arange(beams)[None]
        tokens = np.full((1, beams), 5)
        for step in range(steps):
            moved = np.roll(own, 1) if beams > 1 and step % 4 == 3 else own
            section(f"step {answer}.{step}")
            decoder.step(tokens, np.zeros_like(own) if step == 0 else moved)
    section("end")
    session = model.sessions[contract.DECODER]
    sys.stdout.write(json.dumps({"providers": providers, "captured": session.capturable}))
    sys.stdout.flush()
    backend.close()


def _sections() -> Callable[[str], None]:
    library = ctypes.CDLL("libcudart.so.13")
    return lambda name: library.stand_in_section(name.encode())


def _record_providers() -> dict[str, dict[str, list[str]]]:
    """By graph and provider the operators that it was given; filled when sessions are opened."""
    found: dict[str, dict[str, list[str]]] = {}
    onnxruntime = ort.import_onnxruntime()
    open_session = onnxruntime.InferenceSession

    def recording(model: Any, options: Any, **rest: Any) -> Any:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        session = open_session(model, options, **rest)
        graph = str(model).rpartition("/")[2].removesuffix(".onnx")
        by_provider = found.setdefault(graph, {})
        for part in session.get_provider_graph_assignment_info():
            kinds = [node.op_type for node in part.get_nodes()]
            by_provider.setdefault(part.ep_name, []).extend(kinds)
        return session

    onnxruntime.InferenceSession = recording
    return found


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
