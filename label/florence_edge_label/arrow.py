"""pyarrow, which is optional: whoever needs it asks `check_installed` first."""

from importlib import import_module
from typing import Any

from florence_edge import MissingPackageError
from florence_edge.extras import pip_install


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:  # said by `check_installed`, when it is needed
        return None


pa: Any = _module("pyarrow")
pq: Any = _module("pyarrow.parquet")


def check_installed() -> None:
    """Find out before anything else whether there is pyarrow.

    Raises:
        MissingPackageError: it is not installed.
    """
    if pa is None:
        raise MissingPackageError(
            "florence-label writes Parquet with pyarrow, which is not installed. Install it with: "
            f"{pip_install('label')}"
        )
