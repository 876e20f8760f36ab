"""The process of a worker: `python -m florence_edge_label.worker DESCRIPTOR`.

It is told its settings, loads the model and answers shards until its pipe is closed, which the
system does when whoever started it ends, however that ends.

    settings ->                 <- Ready, or Failed
    shard    ->   Begun, Alive, Ended ... <- Part, or Failed
"""

import logging
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from threading import Lock

from florence_edge import FlorenceEdgeError
from florence_edge.command import shortage

from .labeller import Labeller, Shard, Watcher, WorkerSettings


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is loaded."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The worker cannot go on, and ends."""

    message: str


@dataclass(frozen=True, slots=True)
class Begun:
    """A picture is about to be read."""

    place: int


@dataclass(frozen=True, slots=True)
class Alive:
    """A batch is encoded, or a question about one of its pictures answered: nothing hangs."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Pictures are answered, or known to be unreadable."""

    places: tuple[int, ...]


def main(arguments: Sequence[str]) -> None:
    """Serve the pipe whose file descriptor is the only argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever closes the pipe
    logging.basicConfig(format="florence-label: %(message)s", level=logging.WARNING)
    with (
        Connection(int(arguments[0])) as pipe,
        suppress(EOFError, BrokenPipeError, ConnectionResetError),
    ):
        serve(pipe)


def serve(pipe: Connection) -> None:
    """Load and answer, until the pipe is closed.

    Raises:
        EOFError, BrokenPipeError: the other end is gone.
    """
    settings: WorkerSettings = pipe.recv()
    try:
        labeller = Labeller(settings)
    except (FlorenceEdgeError, OSError, MemoryError) as error:
        pipe.send(Failed(shortage(error) or str(error)))
        return
    watcher = _watcher(pipe)
    pipe.send(Ready())
    while True:
        shard: Shard = pipe.recv()
        try:
            part = labeller.answer(shard, watcher)
        except (FlorenceEdgeError, MemoryError) as error:  # the engine may be in any state now
            pipe.send(Failed(shortage(error) or str(error)))
            return
        pipe.send(part)


def _watcher(pipe: Connection) -> Watcher:
    """Two threads tell: one that reads pictures, and one that answers."""
    lock = Lock()

    def begun(place: int) -> None:
        with lock:
            pipe.send(Begun(place))

    def alive() -> None:
        with lock:
            pipe.send(Alive())

    def ended(places: Sequence[int]) -> None:
        with lock:
            pipe.send(Ended(tuple(places)))

    return Watcher(begun=begun, alive=alive, ended=ended)


if __name__ == "__main__":
    # Under its own name, so that what it sends is of the types that the other end knows.
    from florence_edge_label.worker import main as named_main

    named_main(sys.argv[1:])
