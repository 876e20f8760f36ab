"""What a server is told once, when it starts."""

import math
from dataclasses import dataclass

from florence_edge import RequestError
from florence_edge.tasks import Request

MAX_UPLOAD = 20 * 2**20
"""Bytes of the largest body of a request unless one asks for more; a photograph has 2 to 12 MB."""
MAX_PIXELS = 50_000_000
"""Width times height of the largest picture unless one asks for more: 150 MB when decoded."""
MAX_QUESTIONS = 32
"""The most tasks of one request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a server works; its model is loaded beside."""

    batch: int = 8
    """The most answers that the engine works at together."""
    queue: int = 32
    """The most requests that wait for the engine; what comes then is told to try again."""
    deadline: float = 60.0
    """Seconds from its arrival after which a request that asks for no other is refused, or its
    answer cut short."""
    upload_timeout: float = 30.0
    """Seconds that a client may take to send its request."""
    max_upload: int = MAX_UPLOAD
    """Bytes of the largest body of a request, or message of a WebSocket."""
    token: str | None = None
    """What clients have to present; None lets everybody in."""
    cors: tuple[str, ...] = ()
    """Origins whose pages may use this server from a browser, such as https://panel.example."""
    hosts: tuple[str, ...] | None = None
    """Names by which the server may be called; None takes any."""
    source: str | None = None
    """The box's own camera: a number, a URL, a file, a pipeline."""
    camera_request: Request | None = None
    """What the frames of `source` are asked unless a viewer asks something else."""
    clean: bool = False
    """Whether every answer is cleaned (`Result.clean`), and not only where a client asks for it."""
    device: str = "cpu"
    """What the model runs on, for those who look at the server."""
    tls: bool = False
    """Whether clients come over TLS; cookies are then kept from unencrypted connections."""

    def __post_init__(self) -> None:
        for name in ("batch", "queue", "max_upload"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise RequestError(f"{name} is {value!r}; it must be a whole number of 1 or more.")
        for name in ("deadline", "upload_timeout"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise RequestError(f"{name} is {value!r}; it must be a number of seconds above 0.")
        if self.token is not None and not self.token.strip():
            raise RequestError("The token is empty. Write one into its file, or leave it out.")
