"""When the host only waits for the GPU: what is left of decoding is the host's own work.

TensorRT is launched and waited for in `Cuda.synchronize`. ONNX Runtime's CUDA provider waits within
its runs, so these count as waiting whole.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from florence_edge.backends import Backend
from florence_edge.backends.batch_memory import Run, Session
from florence_edge.backends.device import DeviceBackend
from florence_edge.cuda import Place
from florence_edge.cuda.calls import Call as CudaCall

from .calls import Calls

_WAIT = "cudaStreamSynchronize"


def with_waits(backend: Backend, calls: Calls) -> Backend:
    """A backend that answers as `backend` does and records its waits; itself without a GPU."""
    if not isinstance(backend, DeviceBackend):
        return backend
    model = backend.model
    model.cuda.call = _recorded(model.cuda.call, calls)
    sessions = {
        name: session if session.capturable else _WaitingSession(session, calls)
        for name, session in model.sessions.items()
    }
    owned = ExitStack()
    owned.callback(backend.close)
    owned.callback(sessions.clear)  # before the stream, which goes with the backend
    limit = backend.most_new_tokens
    return DeviceBackend(replace(model, sessions=sessions), owned, most_new_tokens=limit)


def _recorded(call: CudaCall, calls: Calls) -> CudaCall:
    def recorded(name: str, *arguments: Any) -> Any:
        if name != _WAIT:
            return call(name, *arguments)
        with calls.record("wait"):
            return call(name, *arguments)

    return recorded


class _WaitingSession:
    """An engine whose runs wait for the GPU."""

    capturable = False

    def __init__(self, session: Session, calls: Calls) -> None:
        self._session = session
        self._calls = calls

    def bind(self, places: Mapping[str, Place]) -> Run:
        run = self._session.bind(places)

        def recorded() -> None:
            with self._calls.record("wait"):
                run()

        return recorded
