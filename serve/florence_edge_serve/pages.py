"""The page at `/`, its files, those of florence_edge_js that it shares, and `/docs`.

None needs anything from the network.
"""

import html
import json
from importlib import resources
from pathlib import PurePosixPath
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

from .failures import Failure

_FOLDERS = {
    "page": resources.files(__package__) / "page",
    "js": resources.files("florence_edge_js"),  # drawing.js and colours.js are of the npm package
}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".webmanifest": "application/manifest+json",
    ".txt": "text/plain; charset=utf-8",
}


def page_file(name: str, request: Request, folder: str = "page") -> Response:
    """A file of the page, or of the JavaScript package ("js").

    Raises:
        Failure: 404, there is no such file.
    """
    path = PurePosixPath(name)
    kind = _TYPES.get(path.suffix)
    plain = all(part not in ("..", ".") for part in path.parts) and not path.is_absolute()
    found = _FOLDERS[folder].joinpath(*path.parts) if plain and kind and "\0" not in name else None
    if found is None or not found.is_file():
        raise Failure(404, f"There is no page {name!r:.80}.")
    content = found.read_bytes()
    tag = f'"{len(content):x}-{hash(content) & 0xFFFFFFFFFFFFFFFF:x}"'
    headers = {"Cache-Control": "no-cache", "ETag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=kind, headers=headers)


def router() -> APIRouter:
    """The routes of the page."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    async def index(request: Request) -> Response:
        return page_file("index.html", request)

    @routes.get("/page/{name:path}")
    async def file(name: str, request: Request) -> Response:
        return page_file(name, request)

    @routes.get("/js/{name:path}")
    async def package_file(name: str, request: Request) -> Response:
        return page_file(name, request, "js")

    @routes.get("/docs")
    async def docs(request: Request) -> Response:
        return HTMLResponse(docs_page(request.app.openapi()))

    @routes.get("/docs.css")
    async def style() -> Response:
        css = (resources.files(__package__) / "docs.css").read_bytes()
        return Response(css, media_type=_TYPES[".css"])

    return routes


def docs_page(document: dict[str, Any]) -> str:
    """An OpenAPI document as a page without scripts: it can be read on a robot's own network.

    Swagger's page loads its scripts from a CDN, which such a network cannot reach.
    """
    info, parts = document["info"], []
    for path, methods in document["paths"].items():
        parts += [_operation(method, path, about) for method, about in methods.items()]
    schemas = document.get("components", {}).get("schemas", {})
    shown = [
        f'<section id="{html.escape(name)}"><h3>{html.escape(name)}</h3>{_pre(schema)}</section>'
        for name, schema in schemas.items()
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(info['title'])}</title>"
        '<link rel="stylesheet" href="/docs.css"></head><body><header>'
        f"<h1>{html.escape(info['title'])} {html.escape(info['version'])}</h1>"
        f"<p>{html.escape(info.get('description', ''))}</p>"
        '<p><a href="/">The page</a> tries all tasks; '
        '<a href="/openapi.json">openapi.json</a> is for programs.</p></header>'
        f"<main>{''.join(parts)}<h2>Shapes</h2>{''.join(shown)}</main></body></html>"
    )


def _operation(method: str, path: str, about: dict[str, Any]) -> str:
    rows = [
        f"<tr><td><code>{html.escape(p['name'])}</code></td><td>{html.escape(p['in'])}</td>"
        f"<td>{html.escape(p.get('description', ''))}</td></tr>"
        for p in about.get("parameters", [])
    ]
    parameters = f"<table>{''.join(rows)}</table>" if rows else ""
    body = "".join(
        f"<details><summary>Body: {html.escape(kind)}</summary>{_examples(content)}"
        f"{_pre(content.get('schema', {}))}</details>"
        for kind, content in about.get("requestBody", {}).get("content", {}).items()
    )
    replies = "".join(
        f"<details><summary><b>{status}</b> {html.escape(reply.get('description', ''))}</summary>"
        + "".join(
            f"{_examples(content)}{_pre(content.get('schema', {}))}"
            for content in reply.get("content", {}).values()
        )
        + "</details>"
        for status, reply in about.get("responses", {}).items()
    )
    return (
        f'<section><h2><span class="{method}">{method.upper()}</span> '
        f"<code>{html.escape(path)}</code></h2>"
        f"<p><b>{html.escape(about.get('summary', ''))}</b></p>"
        f"<p>{html.escape(about.get('description', ''))}</p>{parameters}{body}{replies}</section>"
    )


def _examples(content: dict[str, Any]) -> str:
    named = content.get("examples", {})
    shown = [_pre(example.get("value")) for example in named.values()]
    if "example" in content:
        shown.append(_pre(content["example"]))
    return "".join(shown)


def _pre(value: object) -> str:
    if not value:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    return f"<pre>{html.escape(text)}</pre>"
