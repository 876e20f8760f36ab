import importlib
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from florence_edge.errors import BackendError, MissingPackageError, RequestError
from florence_edge.tensorrt.install import CHOICE, find_tensorrt, version_numbers

NAMES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes exactly these modules importable, with their versions (or the error they raise)."""
    monkeypatch.delenv(CHOICE, raising=False)

    def install(**modules: str | Exception) -> None:
        for name in NAMES:
            version = modules.get(name)
            module = SimpleNamespace(__version__=version) if isinstance(version, str) else None
            monkeypatch.setitem(sys.modules, name, module)
        original = importlib.import_module

        def import_module(name: str) -> Any:
            if name in NAMES and name not in modules:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            failure = modules.get(name)
            if isinstance(failure, Exception):
                raise failure
            return original(name)

        monkeypatch.setattr(importlib, "import_module", import_module)

    return install


def test_the_full_tensorrt_comes_first(installed: Any) -> None:
    installed(tensorrt="10.16.2.10", tensorrt_rtx_bindings="1.7.1.116")
    found = find_tensorrt()
    assert (found.flavour, found.version, found.is_rtx) == ("tensorrt", "10.16.2.10", False)


@pytest.mark.parametrize("name", ["tensorrt_rtx", "tensorrt_rtx_bindings"])
def test_rtx_is_found_under_both_names_of_its_module(installed: Any, name: str) -> None:
    installed(**{name: "1.7.1.116"})
    found = find_tensorrt()
    assert (found.flavour, found.is_rtx) == ("tensorrt_rtx", True)


def test_the_choice_can_be_made_by_argument_and_by_environment(
    installed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tensorrt="11.4.0", tensorrt_rtx="1.7.1")
    assert find_tensorrt("rtx").version == "1.7.1"
    monkeypatch.setenv(CHOICE, "rtx")
    assert find_tensorrt().version == "1.7.1"
    assert find_tensorrt("tensorrt").version == "11.4.0"


def test_tensorrt_of_jetpack_6_0_is_refused_and_that_of_6_1_is_not(installed: Any) -> None:
    installed(tensorrt="8.6.2.3")
    with pytest.raises(BackendError, match=r"8\.6\.2\.3 is too old.*JetPack 6\.1 or newer"):
        find_tensorrt()
    installed(tensorrt="10.3.0")
    assert find_tensorrt().version == "10.3.0"


def test_without_tensorrt_the_message_says_where_it_comes_from(installed: Any) -> None:
    installed()
    with pytest.raises(
        MissingPackageError, match=r"python3-libnvinfer.*pip install .*\[tensorrt-cu13\]"
    ):
        find_tensorrt()


def test_without_tensorrt_rtx_the_message_names_its_packages(installed: Any) -> None:
    installed(tensorrt="10.3.0")
    with pytest.raises(
        MissingPackageError, match=r"RTX is not installed.*tensorrt-rtx-cu13-bindings"
    ):
        find_tensorrt("rtx")


def test_a_tensorrt_that_does_not_load_is_not_called_missing(installed: Any) -> None:
    installed(tensorrt=OSError("libnvinfer.so.10: cannot open shared object file"))
    with pytest.raises(BackendError, match=r"installed but does not load: libnvinfer\.so\.10"):
        find_tensorrt()


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(RequestError, match="Expected tensorrt or rtx"):
        find_tensorrt("openvino")


def test_a_version_is_its_leading_numbers() -> None:
    assert version_numbers("10.16.2.post1") == (10, 16, 2)
