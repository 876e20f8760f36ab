"""What the tests of the page share; see stand.py."""

from collections.abc import Generator
from pathlib import Path

import pytest

from florence_edge import Florence2

from .stand import Stand, prepare


@pytest.fixture(scope="session")
def stand(miniature_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Stand:
    return prepare(miniature_bundle, tmp_path_factory)


@pytest.fixture(scope="session")
def miniature(stand: Stand) -> Generator[Florence2, None, None]:
    """The model that the page's server has, asked in Python."""
    with Florence2.load(stand.bundle, threads=1) as model:
        yield model
