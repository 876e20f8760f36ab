"""florence-serve: put a bundle on the network."""

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from florence_edge import (
    Florence2,
    MissingPackageError,
    Needs,
    RequestError,
    __version__,
    request_for,
)
from florence_edge.command import parsed, run_command
from florence_edge.extras import pip_install
from florence_edge.files import open_plain
from florence_edge.image_arguments import add_image_arguments
from florence_edge.task_arguments import own_tasks, tasks_by_needs
from florence_edge.tasks import with_own

from .hosts import local_names
from .logs import log_as_json
from .settings import MAX_PIXELS, MAX_UPLOAD, Settings

logger = logging.getLogger(__name__)

_MAX_TOKEN = 4096


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0 after SIGTERM or Ctrl-C, 1 where something failed, 2 for wrong usage.
    """
    options = parsed(_parser(), arguments)
    return run_command("florence-serve", lambda: _serve(options))


def _serve(options: argparse.Namespace) -> None:
    settings = settings_from(options)
    try:
        if options.mcp:
            from .mcp import create_server
        else:
            from .server import bound_socket, serve
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"florence-serve needs {error.name}. Install it with: {pip_install('serve')}"
        ) from error
    if options.mcp:  # the standard output is the client's
        log_as_json(logging.WARNING)
        with _load(options) as model:
            create_server(model).run("stdio")
        return
    log_as_json(logging.DEBUG if options.verbose else logging.INFO)
    _warn(options, settings)
    logger.info("Loading %s on %s", options.bundle, options.device)
    with bound_socket(options.host, options.port) as bound, _load(options) as model:
        serve(model, settings, bound, certificate=options.certificate, key=options.key)


def _load(options: argparse.Namespace) -> Florence2:
    return Florence2.load(
        options.bundle,
        options.device,
        threads=options.threads,
        max_pixels=options.max_pixels,
        deep_range=options.deep_range,
    )


def settings_from(options: argparse.Namespace) -> Settings:
    """What the arguments say.

    Raises:
        RequestError: an argument does not fit.
    """
    if (options.certificate is None) != (options.key is None):
        raise RequestError("--certificate and --key go together.")
    camera_request = None
    if options.source is not None:
        names = options.task.split(",")
        own_of_bundle = own_tasks(options.bundle, names)
        camera_request = request_for(with_own(names, own_of_bundle), options.text)
    elif options.text is not None:
        raise RequestError("--text is for the camera: it needs --source.")
    token = None if options.token_file is None else _token(options.token_file)
    own = options.host in ("127.0.0.1", "localhost", "::1")
    hosts = local_names((*options.allow_host, *_hosts_of(options.cors)))
    return Settings(
        batch=options.batch,
        queue=options.queue,
        deadline=options.deadline,
        max_upload=round(options.max_upload * 2**20),
        token=token,
        cors=tuple(options.cors),
        hosts=hosts if own and token is None else None,
        source=options.source,
        camera_request=camera_request,
        clean=options.clean,
        device=options.device,
        tls=options.certificate is not None,
    )


def _hosts_of(origins: Sequence[str]) -> list[str]:
    return [origin.partition("://")[2] for origin in origins]


def _token(path: Path) -> str:
    """The one word in a file.

    Raises:
        RequestError: it cannot be read, or holds no token.
    """
    try:
        with open_plain(path) as file:
            content = file.read(_MAX_TOKEN + 1)
    except OSError as error:
        raise RequestError(
            f"The token cannot be read from {path}: {error.strerror or error}."
        ) from None
    try:
        token = content.decode("ascii").strip()
    except UnicodeDecodeError:
        token = ""
    if not token or len(content) > _MAX_TOKEN or any(map(str.isspace, token)):
        raise RequestError(
            f"{path} holds no token: expected one word in ASCII, such as `openssl rand -hex 32` "
            "makes."
        )
    if os.name == "posix" and path.stat().st_mode & 0o004:
        logger.warning("Everybody on this machine can read the token in %s: chmod 600 it.", path)
    return token


def _warn(options: argparse.Namespace, settings: Settings) -> None:
    everybody = settings.token is None and settings.hosts is None
    if everybody:
        logger.warning(
            "Whoever reaches port %d may use this server and look through its camera: there is no "
            "--token-file.",
            options.port,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="florence-serve", description="Put a Florence-2 bundle on the network."
    )
    parser.add_argument("bundle", type=Path, help="folder that florence-export wrote")
    parser.add_argument("--host", default="127.0.0.1", help="address; 0.0.0.0 is every network")
    parser.add_argument("--port", type=_port, default=8000)
    parser.add_argument("--device", default="cpu", help="cpu, cuda:1, tensorrt, openvino, ...")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of a CPU engine")
    parser.add_argument(
        "--clean",
        action="store_true",
        help="leave out regions without an area, and location tokens in labels, in all answers",
    )
    parser.add_argument("--mcp", action="store_true", help="speak MCP over stdio, and no HTTP")
    parser.add_argument("--verbose", action="store_true", help="log more")
    parser.add_argument("--version", action="version", version=f"florence-edge {__version__}")
    camera = parser.add_argument_group("camera")
    camera.add_argument("--source", help="a camera's number, a URL such as rtsp://..., a video")
    camera.add_argument(
        "--task",
        default="OD",
        help=f"what its frames are asked (default OD). {tasks_by_needs(Needs.NOTHING, Needs.TEXT)}",
    )
    camera.add_argument("--text", help="what goes with the task")
    limits = parser.add_argument_group("limits")
    limits.add_argument("--batch", type=int, default=8, metavar="N", help="answers at once (8)")
    limits.add_argument("--queue", type=int, default=32, metavar="N", help="that may wait (32)")
    limits.add_argument(
        "--deadline", type=float, default=60.0, metavar="S", help="seconds for a request (60)"
    )
    limits.add_argument(
        "--max-upload",
        type=float,
        default=MAX_UPLOAD / 2**20,
        metavar="MB",
        help="largest request (20)",
    )
    add_image_arguments(limits)
    parser.set_defaults(max_pixels=MAX_PIXELS)
    access = parser.add_argument_group("access")
    access.add_argument("--token-file", type=Path, metavar="F", help="clients need its token")
    access.add_argument(
        "--cors", action="append", default=[], metavar="ORIGIN", help="a page that may use this"
    )
    access.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="a name of this server"
    )
    access.add_argument("--certificate", type=Path, metavar="F", help="for TLS, with --key")
    access.add_argument("--key", type=Path, metavar="F")
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; expected 0 to 65535")
    return int(text)
