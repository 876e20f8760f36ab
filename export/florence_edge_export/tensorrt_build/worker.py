"""A process of its own for each graph: TensorRT gives memory back when the process ends."""

import multiprocessing
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from florence_edge.cuda.providers import open_provider
from florence_edge.errors import BackendError, FlorenceEdgeError
from florence_edge.tensorrt.install import find_tensorrt
from florence_edge_jetson.machine.system import peak_bytes

from .builder import BuildProgress, Built, Event, Failed, Job, OnEvent, plan_from_onnx
from .memory_forecast import MAKE_ROOM


def build_in_process(job: Job) -> Iterator[Event]:
    """Build in a fresh process; gives its events as they come, and ends with `Built`.

    Raises:
        BackendError: the build failed, or its process was killed.
    """
    context = multiprocessing.get_context("spawn")  # a fork would inherit CUDA, locks and threads
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(job, theirs), name=f"build-{job.graph.name}")
    process.start()
    theirs.close()
    try:
        yield from _events(ours, process, job)
    finally:
        process.terminate()
        process.join()
        ours.close()


def _events(pipe: Connection, process: BaseProcess, job: Job) -> Iterator[Event]:
    while True:
        try:
            event: Event = pipe.recv()
        except EOFError:
            process.join()
            raise BackendError(why_it_ended(job.graph.name, process.exitcode)) from None
        if isinstance(event, Failed):
            raise BackendError(event.text)
        yield event
        if isinstance(event, Built):
            return


def why_it_ended(graph: str, status: int | None) -> str:
    """The message for a process that is gone without a word."""
    if status == -signal.SIGKILL:
        return (
            f"The process that built {graph} was killed, most likely because memory ran "
            f"out. {MAKE_ROOM}"
        )
    return (
        f"The process that built {graph} ended with status {status} and no reason. "
        "Run florence-build again with --verbose, and look at dmesg."
    )


def _work(job: Job, pipe: Connection) -> None:
    """The body of the process."""
    # Ctrl-C and a hang-up reach both; the parent ends this one.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with suppress(BrokenPipeError):  # the parent is gone
        pipe.send(build(job, pipe.send))


def build(job: Job, on_event: OnEvent) -> Built | Failed:
    """Build a plan and write it, in this process."""
    begun = time.monotonic()
    try:
        if job.gpu:  # TensorRT builds on the thread's current one; the first is it anyway
            choose_gpu(job.gpu)
        on_event(BuildProgress(job.graph.name, 0, 0))
        plan = plan_from_onnx(find_tensorrt(job.flavour), job, on_event)
        job.plan.write_bytes(plan)
    except FlorenceEdgeError as error:
        return Failed(str(error))
    except OSError as error:
        return Failed(f"Cannot write {job.plan}: {error}. Choose another --engine-dir.")
    return Built(seconds=round(time.monotonic() - begun, 1), peak_mb=(peak_bytes() or 0) >> 20)


def choose_gpu(index: int) -> None:
    """Make a GPU this thread's current one: for libraries that take no index.

    Raises:
        BackendError: there is no CUDA, or no such GPU.
    """
    open_provider()("cudaSetDevice", index)
