"""Test data: what is committed lies in tests/data, the rest in the folder FLORENCE_EDGE_ASSETS.

That folder is a convenience. A file that is not there skips the test that needs it, and the reason
says where the file comes from (tests/data/README.md has the same table).
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

DATA = Path(__file__).parents[1] / "data"

Asset = Callable[[str], Path]
"""The fixture `asset`: from a name below the folder to the path of what is there."""

# The longest beginning of a name that stands here says where a file comes from.
ORIGINS = {
    "cases": "files of a trial that attacked every door; tests make their own of each kind",
    "florence-2/": "see microsoft/Florence-2-base or -large on the Hugging Face hub (MIT)",
    "florence-2/native-processor/": "see florence-community/Florence-2-base on the hub",
    "florence-2/state_dict.": "it lists key and shape of every tensor of the original checkpoint",
    "golden/": "those of other people's runs whose repositories state no licence are not published",
    "photos": "40 photographs of COCO 2017 (CC BY 2.0) with annotations, six of scikit-image",
    "tensorrt_api_names.json": "it lists dir() of NVIDIA's wheels: three releases of TensorRT",
    "tiny-": "a random checkpoint of 15 MB and what Microsoft's code gave on a photograph; "
    "not published, the twin of tests/export/microsoft_twin.py stands in for it",
}


def find_asset(name: str) -> Path | None:
    """The file or folder of this name in FLORENCE_EDGE_ASSETS, or None."""
    folder = os.environ.get("FLORENCE_EDGE_ASSETS")
    path = Path(folder or "") / name
    return path if folder and path.exists() else None


def need_asset(name: str) -> Path:
    """The file or folder of this name in FLORENCE_EDGE_ASSETS; without it, the test is skipped."""
    path = find_asset(name)
    if path is None:
        known = [begins for begins in ORIGINS if name.startswith(begins)]
        pytest.skip(f"no {name} in FLORENCE_EDGE_ASSETS: {ORIGINS[max(known, key=len)]}")
    return path
