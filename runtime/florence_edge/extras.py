"""How to install an extra of this package, from where it was itself installed.

An index does not have every version, and a checkout is what most people try first: a hint that does
not work where they are is worse than none.
"""

import json
import shlex
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

DISTRIBUTION = "florence-edge"


def pip_install(*extras: str) -> str:
    """The command that installs extras: `pip install 'florence-edge[cpu,export]'`.

    Of a checkout, also one that was installed from, it names the folder, with `-e` if that is what
    is imported: a copy would take its place. Of a wheel file or a repository, where that is.
    """
    return shlex.join(["pip", "install", *_arguments(_direct_url(), ",".join(extras))])


def newer_release() -> str:
    """The command that brings a newer release, or a sentence where there is none for it.

    Of a checkout that is git's, and once more pip's where a copy of it is imported.
    """
    direct = _direct_url()
    url = direct.get("url", "")
    folder = Path(url2pathname(urlsplit(url).path))
    if "vcs_info" in direct:
        named = f"{DISTRIBUTION} @ {direct['vcs_info']['vcs']}+{url}"
        return shlex.join(["pip", "install", "--upgrade", named])
    if "dir_info" in direct and _is_source(folder):
        return _newer_sources(folder, editable=direct["dir_info"].get("editable", False))
    if url and "dir_info" not in direct:
        return f"Install a newer release as this one was installed, from {url}."
    return f"pip install --upgrade {DISTRIBUTION}"


def _newer_sources(folder: Path, *, editable: bool) -> str:
    if not (folder / ".git").exists():  # a folder, or a file in a worktree
        again = "" if editable else ", and install it again"
        return f"Put the sources of a newer release in the place of {folder}{again}."
    pull = shlex.join(["git", "-C", str(folder), "pull"])
    return pull if editable else f"{pull} && {shlex.join(['pip', 'install', str(folder)])}"


def _arguments(direct: dict[str, Any], extras: str) -> list[str]:
    named = f"{DISTRIBUTION}[{extras}]"
    if "dir_info" in direct:
        folder = Path(url2pathname(urlsplit(direct["url"]).path))
        if not _is_source(folder):
            return [named]
        editable = ["-e"] if direct["dir_info"].get("editable") else []
        return [*editable, f"{folder}[{extras}]"]
    if "vcs_info" in direct:
        vcs = direct["vcs_info"]
        return [f"{named} @ {vcs['vcs']}+{direct['url']}@{vcs['commit_id']}"]
    if "url" in direct:
        return [f"{named} @ {direct['url']}"]
    return [named]


@cache
def _direct_url() -> dict[str, Any]:
    """Where the package was installed from (PEP 610's direct_url.json); empty for an index."""
    try:
        text = distribution(DISTRIBUTION).read_text("direct_url.json")
    except PackageNotFoundError:  # a checkout on PYTHONPATH
        return {"url": Path(__file__).parents[2].as_uri(), "dir_info": {"editable": True}}
    found: dict[str, Any] = json.loads(text) if text else {}
    return found


def _is_source(folder: Path) -> bool:
    """Whether a folder is a checkout still."""
    return (folder / "pyproject.toml").is_file()
