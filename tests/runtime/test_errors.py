"""The tree of errors: by kind, so that callers can catch what they mean."""

import inspect
from pathlib import Path

import pytest

from florence_edge import Florence2, FlorenceEdgeError, errors, run_many, watch
from florence_edge.image import load_image

BASES = {
    "BundleError": (FlorenceEdgeError,),
    "BundleNotFoundError": (errors.BundleError, FileNotFoundError),
    "BackendError": (FlorenceEdgeError,),
    "SourceError": (FlorenceEdgeError,),
    "SourceNotFoundError": (errors.SourceError, FileNotFoundError),
    "MissingPackageError": (FlorenceEdgeError, ImportError),
    "RequestError": (FlorenceEdgeError, ValueError),
    "ImageError": (errors.RequestError,),
    "ImageNotFoundError": (errors.ImageError, FileNotFoundError),
    "ImageFormatError": (errors.ImageError,),
    "ImageTooLargeError": (errors.ImageError,),
}


def test_every_error_has_the_bases_of_its_kind() -> None:
    classes = {name: kind for name, kind in vars(errors).items() if inspect.isclass(kind)}
    assert {name: kind.__bases__ for name, kind in classes.items() if name in BASES} == BASES
    assert set(classes) == {*BASES, "FlorenceEdgeError"}
    assert FlorenceEdgeError.__bases__ == (Exception,)


def test_an_image_that_is_not_there_is_a_missing_file_a_bad_image_and_a_wrong_argument() -> None:
    kind = errors.ImageNotFoundError
    for base in (errors.ImageError, errors.RequestError, FileNotFoundError, ValueError, OSError):
        assert issubclass(kind, base)


@pytest.mark.parametrize("name", sorted(BASES))
def test_the_message_is_what_is_shown(name: str) -> None:
    """OSError and ImportError, which are mixed in, have ideas of their own of a message."""
    error = getattr(errors, name)("There is no file a.jpg. Look for it.")
    assert str(error) == "There is no file a.jpg. Look for it."


def test_a_missing_image_is_a_missing_file(tiny_model: Florence2, tmp_path: Path) -> None:
    gone = tmp_path / "gone.jpg"
    with pytest.raises(errors.ImageNotFoundError, match=r"There is no file .*gone\.jpg"):
        tiny_model.run(gone, "OD")
    with pytest.raises(FileNotFoundError):
        load_image(str(gone))
    (answered,) = run_many(tiny_model, [gone], "OD")
    assert isinstance(answered.error, errors.ImageNotFoundError)


def test_a_folder_is_not_a_missing_image(tmp_path: Path) -> None:
    with pytest.raises(errors.ImageError, match="is a folder") as refused:
        load_image(tmp_path)
    assert not isinstance(refused.value, FileNotFoundError)


def test_a_missing_bundle_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(errors.BundleNotFoundError, match="There is no bundle at"):
        Florence2.load(tmp_path / "gone")
    with pytest.raises(FileNotFoundError):
        Florence2.load(tmp_path / "gone")


def test_a_missing_video_is_a_missing_file(tiny_model: Florence2, tmp_path: Path) -> None:
    with pytest.raises(errors.SourceNotFoundError, match=r"There is no file .*gone\.mp4"):
        watch(tiny_model, tmp_path / "gone.mp4", "OD")
    with pytest.raises(FileNotFoundError):
        watch(tiny_model, tmp_path / "gone.mp4", "OD")


def test_an_unknown_device_is_a_wrong_argument(tiny_bundle: Path) -> None:
    with pytest.raises(ValueError, match="There is no device 'tpu'"):
        Florence2.load(tiny_bundle, "tpu")
