"""What the package index shows: metadata of pyproject.toml and the page."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_page_on_the_index_has_no_link_that_leads_nowhere_there() -> None:
    (name,) = re.findall(r'^readme = "(.+?)"', PROJECT, re.MULTILINE)
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / name).read_text(encoding="utf-8"))
    assert [link for link in links if not link.startswith("https://")] == []


def test_every_python_of_the_classifiers_is_admitted() -> None:
    versions = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PROJECT)
    (lowest,) = re.findall(r'^requires-python = ">=(.+)"$', PROJECT, re.MULTILINE)
    assert versions[0] == lowest
    assert versions == sorted(versions, key=lambda version: int(version[2:]))


def test_addresses_are_real_or_absent() -> None:
    """There is no public repository yet: better no address than an invented one."""
    urls = re.findall(r'"(https?://[^"]+)"', PROJECT)
    assert [url for url in urls if "example" in url or "TODO" in url] == []
