"""Names by which a server may be called."""

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit


def local_names(more: Iterable[str]) -> tuple[str, ...]:
    """What a server that listens on this machine alone may be called, and `more` names."""
    own = socket.gethostname().lower()
    return ("localhost", own, f"{own}.local", "", *(host_name(name) for name in more))


def host_name(netloc: str) -> str:
    """The name in `name:port`, in small letters."""
    try:
        return (urlsplit(f"//{netloc}").hostname or "").rstrip(".")
    except ValueError:  # half an IPv6 address
        return "invalid"


def is_address(name: str) -> bool:
    """Whether it is an IP address, which no name server can turn into another."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
