"""Servers of the tiny model, one a session, and gates before its engine.

What the extra `serve` brings is imported in the fixtures: without it, the test modules are skipped.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from florence_edge import Florence2

if TYPE_CHECKING:
    from .serving import Gate, Server


@pytest.fixture(scope="session")
def tiny_model(tiny_model: Florence2) -> Florence2:
    """The tiny model with short answers, whatever is asked."""
    generation = replace(tiny_model.bundle.generation, num_beams=1, max_new_tokens=9)
    bundle = replace(tiny_model.bundle, generation=generation)
    return Florence2(bundle, tiny_model.backend, tiny_model._tokenizer)


@pytest.fixture(scope="session")
def server(tiny_model: Florence2) -> "Iterator[Server]":
    from florence_edge_serve.settings import Settings

    from .serving import serving

    with serving(tiny_model, Settings(max_upload=2**20)) as running:
        yield running


@pytest.fixture
def gate(tiny_model: Florence2) -> "Gate":
    from .serving import Gate

    return Gate(tiny_model)
