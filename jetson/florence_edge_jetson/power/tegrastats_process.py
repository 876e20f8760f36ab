"""A tegrastats that runs beside us: what it says from now on, and an end to waiting for it."""

import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import IO

from florence_edge.errors import BackendError

from .tegrastats import parse

_SILENCE = 2.0  # seconds without a line, or without an end after it was told to stop


class Tegrastats:
    """Reads all lines in a thread of its own, so that none waits in a pipe and grows old."""

    def __init__(self, command: Sequence[str]) -> None:
        try:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, text=True, errors="replace"
            )
        except OSError as error:
            raise BackendError(f"{command[0]} cannot be started: {error}.") from error
        self._news = threading.Condition()
        self._line = ""
        self._count = 0
        self._ended = False
        lines = self._process.stdout
        if lines is None:
            raise BackendError(f"{command[0]} has no output to read.")
        self._thread = threading.Thread(target=self._read, args=[lines], daemon=True)
        self._thread.start()

    def watts(self) -> Mapping[str, float]:
        """Rails and their power, of the next line that comes.

        Raises:
            BackendError: no line comes for two seconds, or tegrastats has ended.
        """
        with self._news:
            seen = self._count
            self._news.wait_for(lambda: self._count > seen or self._ended, timeout=_SILENCE)
            if self._count > seen:
                return parse(self._line).watts
            what = "ended" if self._ended else f"has said nothing for {_SILENCE:g} s"
        raise BackendError(f"tegrastats {what}. Run it by hand to see why: tegrastats")

    def close(self) -> None:
        """End it, by force if it does not obey."""
        self._process.terminate()
        try:
            self._process.wait(_SILENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join(_SILENCE)  # a child of it may hold the pipe open

    def _read(self, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                with self._news:
                    self._line, self._count = line, self._count + 1
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()
