"""Opens a bundle on the stand-in, looks and takes steps; its log then has a section for each.

    python trace.py BUNDLE BEAMS STEPS

Prints JSON: where ONNX Runtime's nodes are, and whether the decoder's steps are captured.
"""

import ctypes
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from florence_edge import contract
from florence_edge.backends.open import open_engine
from florence_edge.backends.ort_package import import_onnxruntime
from florence_edge.bundle import Bundle
from florence_edge.search import Ints


def main(folder: str, beams: int, steps: int) -> None:
    providers = _record_providers()
    bundle = Bundle.load(folder)
    backend: Any = open_engine(bundle, "cuda").backend
    section = _sections()
    size, model = bundle.size, backend.model
    pixels = np.zeros((1, size.image_size, size.image_size, 3), dtype=np.uint8)
    for look in range(3):
        section(f"look {look}")
        features = None
        features = backend.encode_image(pixels)
    config = replace(bundle.generation, num_beams=beams)
    ids, mask = np.full((1, 8), 5), np.ones((1, size.image_tokens + 8), dtype=np.int64)
    for answer in range(2):
        section(f"prefill {answer}")
        decoder = backend.prefill(features, ids, mask, beams=beams)
        decoder.expect([config])
        for step in range(steps):
            section(f"step {answer}.{step}")
            decoder.step(*_fed(beams, step, ahead=model.steps_at_once > 1))
    section("end")
    session = model.sessions[contract.DECODER]
    sys.stdout.write(json.dumps({"providers": providers, "captured": session.capturable}))
    sys.stdout.flush()
    backend.close()


def _fed(beams: int, step: int, *, ahead: bool) -> tuple[Ints, Ints]:
    """Tokens and parents; ahead those that our kernel chooses here, where it computes nothing."""
    own = np.arange(beams)[None]
    if ahead or step == 0:
        return np.zeros_like(own), np.zeros_like(own)
    return np.full_like(own, 5), np.roll(own, 1) if beams > 1 and step % 4 == 3 else own


def _sections() -> Callable[[str], None]:
    library = ctypes.CDLL("libcudart.so.13")
    return lambda name: library.stand_in_section(name.encode())


def _record_providers() -> dict[str, dict[str, list[str]]]:
    """By graph and provider the operators that it was given; filled when sessions are opened."""
    found: dict[str, dict[str, list[str]]] = {}
    onnxruntime = import_onnxruntime()
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
