"""A plugin for pytest: `-p blocked_import` with BLOCKED_IMPORT=torch,onnx, as if not installed.

Finders are wrapped rather than preceded by one that raises, so that
`importlib.util.find_spec` answers None, as it does where a package really is absent.
"""

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

BLOCKED = frozenset(os.environ["BLOCKED_IMPORT"].split(","))


def is_blocked(name: str) -> bool:
    return name.partition(".")[0] in BLOCKED


class WithoutBlocked:
    """A finder that does not find the blocked packages."""

    def __init__(self, finder: Any) -> None:
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if is_blocked(name):
            return None
        found: ModuleSpec | None = self._finder.find_spec(name, path, target)
        return found


sys.meta_path[:] = [WithoutBlocked(finder) for finder in sys.meta_path]
for loaded in [name for name in sys.modules if is_blocked(name)]:
    del sys.modules[loaded]
