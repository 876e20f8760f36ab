"""Reading a request's body: JSON or a form, in memory alone, and noticing that a client left."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from .failures import CLIENT_LEFT, Failure

Some = TypeVar("Some")

_FIELDS = 64  # the most fields of a form
_FIELD_BYTES = 2**20


async def body_of(request: Request) -> bytes:
    """The whole body; its size is limited already.

    Raises:
        Failure: 413, 408 or 429 on the way, 499 if the client leaves.
    """
    try:
        return b"".join([part async for part in request.stream()])
    except ClientDisconnect:
        raise client_left() from None


async def form_of(request: Request, limit: int) -> tuple[list[tuple[str, str]], dict[str, bytes]]:
    """The fields and the files of a multipart form; nothing is written to the disk.

    Raises:
        Failure: 422 for what is not a form, and what `body_of` raises.
    """
    parser = MultiPartParser(
        request.headers,
        request.stream(),
        max_files=_FIELDS,
        max_fields=_FIELDS,
        max_part_size=_FIELD_BYTES,
    )
    parser.spool_max_size = limit + 1  # Starlette writes larger files to /tmp
    try:
        form = await parser.parse()
    except ClientDisconnect:
        raise client_left() from None
    except (MultiPartException, FormParserError, KeyError, UnicodeError) as error:
        reason = getattr(error, "message", None) or "it is cut short or has no boundary"
        raise Failure(422, f"The body is not a form: {str(reason).rstrip('.')}.") from None
    try:
        fields = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
        files = {
            name: await value.read()
            for name, value in form.multi_items()
            if isinstance(value, UploadFile)
        }
    finally:
        await form.close()
    return fields, files


def media_type(request: Request) -> str:
    """What a body is said to be, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def wrong_media_type(found: str, expected: str) -> Failure:
    """The answer to a body of a type that is not read."""
    return Failure(415, f"The body is {found or 'of no type'}; expected {expected}.")


def client_left() -> Failure:
    """Nobody will read it."""
    return Failure(CLIENT_LEFT, "The client has left.", kind="client_left")


async def while_connected(request: Request, work: "Coroutine[Any, Any, Some]") -> Some:
    """What the work gives; it is cancelled when the client leaves.

    Raises:
        Failure: 499, the client left; and what the work raises.
    """
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(until_left(request))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise client_left()
        return task.result()
    finally:
        for each in (task, leaving):
            each.cancel()
        await asyncio.gather(task, leaving, return_exceptions=True)


async def until_left(request: Request) -> None:
    """Wait until the client has closed its connection; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
