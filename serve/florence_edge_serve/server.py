"""The server's process: its address, uvicorn, and what happens at a signal."""

import asyncio
import logging
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from florence_edge import Florence2, RequestError

from .app import create_app
from .settings import Settings

logger = logging.getLogger(__name__)

_GRACE = 30  # seconds that answers may take after SIGTERM
_SWITCH_INTERVAL = 0.0005
"""Seconds after which a thread that computes in Python lets another one in (Python's own: 0.005).

The engine's thread leaves the interpreter at every step of the decoder, and wants it back a
millisecond or two later; it should not wait longer for it than the step took.
"""


def serve(
    model: Florence2,
    settings: Settings,
    bound: socket.socket,
    *,
    certificate: Path | None = None,
    key: Path | None = None,
) -> None:
    """Serve at a bound socket until SIGTERM or Ctrl-C; over TLS with a certificate."""
    sys.setswitchinterval(_SWITCH_INTERVAL)
    app = create_app(model, settings)
    config = uvicorn.Config(
        app,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="websockets-sansio",
        ws_max_size=settings.max_upload,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=_GRACE,
    )
    server = Server(config, app.state.service.stop)
    asyncio.run(server.serve(sockets=[bound]))


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket at this address, before the model is loaded; it listens once that is ready.

    Raises:
        RequestError: the address cannot be had.
    """
    bound = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        if bound is not None:
            bound.close()
        raise RequestError(
            f"The server cannot listen at {host}:{port}: {error.strerror or error}. Choose another "
            "--host or --port, or end the program that has it."
        ) from None
    return bound


class Server(uvicorn.Server):
    """uvicorn's server, which tells ours at a signal, before it waits for connections to end."""

    def __init__(self, config: uvicorn.Config, on_exit: Callable[[], Any]) -> None:
        super().__init__(config)
        self._on_exit = on_exit

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say where."""
        await super().startup(sockets)
        scheme = "https" if self.config.is_ssl else "http"
        for each in sockets or []:
            host, port = each.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            logger.info("florence-serve listens at %s://%s:%d", scheme, shown, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note the signal: viewers are let go, and requests answered."""
        super().handle_exit(sig, frame)
        self._captured_signals.clear()  # the command ends with 0, not by the signal
        self._on_exit()
