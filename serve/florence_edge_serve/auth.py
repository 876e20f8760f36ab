"""Who may come in: the token, the names that the server is called by, and foreign pages.

A page of another origin may not use the visitor's cookie or, on a server without a token, the
visitor's place in the network: browsers do not ask before they open a WebSocket, and a name that
was made to point at this machine (DNS rebinding) makes a foreign page one of the same origin.
"""

import hmac
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Literal
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from .hosts import host_name, is_address
from .settings import Settings

COOKIE = "florence_token"
OPEN_PATHS = (
    "/",
    "/health",
    "/ready",
    "/v1/info",
    "/docs",
    "/docs.css",
    "/openapi.json",
    "/favicon.ico",
)
"""Paths that need no token: they show nothing that was seen or asked."""
OPEN_FOLDERS = ("/page/", "/js/")
TOKEN_IN_BODY = ("/infer/lmm", "/v1/vision/")
"""Routes of other servers' protocols, whose clients send the token (`api_key`) in the body."""

Standing = Literal["none", "required", "given"]


@dataclass(frozen=True, slots=True)
class Guard:
    """Compares what clients present with what the server was told."""

    settings: Settings

    def is_token(self, presented: str | None) -> bool:
        """Whether it is the token; how long that takes does not tell how much of it is right."""
        token = self.settings.token
        if token is None or presented is None:
            return token is None
        return hmac.compare_digest(_bytes(presented), _bytes(token))

    def standing(self, headers: Headers) -> Standing:
        """Whether a token is needed, and whether this client presents it."""
        if self.settings.token is None:
            return "none"
        return "given" if self.admits(headers) else "required"

    def admits(self, headers: Headers) -> bool:
        """Whether a request presents the token: as a bearer, or in our own page's cookie."""
        if self.settings.token is None:
            return True
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return self.is_token(bearer.strip())
        cookie = _cookie(headers)
        return cookie is not None and not self.is_foreign(headers) and self.is_token(cookie)

    def is_foreign(self, headers: Headers) -> bool:
        """Whether a browser sends this for a page of another origin that was not allowed."""
        origin = headers.get("origin")
        if origin is None or origin in self.settings.cors or "*" in self.settings.cors:
            return False
        return urlsplit(origin).netloc.lower() != headers.get("host", "").lower()

    def is_name_of_ours(self, headers: Headers) -> bool:
        """Whether the server is called by one of its names, or by an address."""
        if self.settings.hosts is None:
            return True
        name = host_name(headers.get("host", ""))
        return is_address(name) or name in self.settings.hosts


def _cookie(headers: Headers) -> str | None:
    try:
        cookies = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        return None
    found = cookies.get(COOKIE)
    return None if found is None else found.value


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
