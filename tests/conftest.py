"""What several folders of tests share: the test data, and a tiny Florence-2 on disk."""

import logging
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

from florence_edge import Florence2

from .helpers.assets import Asset, need_asset
from .helpers.made_once import made_once
from .helpers.optional import skip_where_a_package_is_missing

IMAGE_SIZE = 64

# Machines of a continuous integration pause at will: time limits would fail at random.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A test module without the optional package it imports is skipped, and never an error."""
    report = yield
    skip_where_a_package_is_missing(collector, report)
    return report


@pytest.fixture(autouse=True)
def log_levels() -> Iterator[None]:
    """A command sets the levels of its packages' loggers; a test that calls it leaves none set."""
    before = _package_levels()
    yield
    for name in _package_levels():
        logging.getLogger(name).setLevel(before.get(name, logging.NOTSET))


def _package_levels() -> dict[str, int]:
    return {
        name: logger.level
        for name, logger in logging.root.manager.loggerDict.items()
        if name.startswith("florence_edge") and isinstance(logger, logging.Logger)
    }


@pytest.fixture(scope="session")
def asset() -> Asset:
    """What is not committed, by name; the test is skipped where it is not at hand."""
    return need_asset


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    synthetic = pytest.importorskip("florence_edge_export.synthetic")

    def make(folder: Path) -> None:
        synthetic.write_checkpoint(folder, "tiny", seed=3, image_size=IMAGE_SIZE)

    return made_once(tmp_path_factory, "checkpoint", make)


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _exported(tmp_path_factory, "tiny", tiny_checkpoint)


@pytest.fixture(scope="session")
def tiny_half_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in float16."""
    return _exported(tmp_path_factory, "tiny", tiny_checkpoint, "fp16")


@pytest.fixture(scope="session")
def miniature_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature, which answers sensibly about scenes."""
    checkpoints = pytest.importorskip("florence_edge_export.checkpoint.loader")
    checkpoint = checkpoints.find_checkpoint(checkpoints.MINIATURE)
    return _exported(tmp_path_factory, checkpoints.MINIATURE, checkpoint)


@pytest.fixture(scope="session")
def tiny_model(tiny_bundle: Path) -> Florence2:
    return Florence2.load(tiny_bundle, threads=1)


def _exported(
    factory: pytest.TempPathFactory, model: str, checkpoint: Path, precision: str = "fp32"
) -> Path:
    exporting = pytest.importorskip("florence_edge_export.export")
    options = exporting.ExportOptions(precision=precision)

    def make(folder: Path) -> None:
        exporting.export(model, checkpoint, folder, options)

    made = made_once(factory, f"{model}-{precision}", make)
    # A process has its own: while one links weights to try a variant, onnx refuses to read them.
    return Path(shutil.copytree(made, factory.mktemp("own") / made.name))
