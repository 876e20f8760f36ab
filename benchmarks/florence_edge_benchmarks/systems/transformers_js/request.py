"""What transformers.js is given: the checkpoint in its layout, and what the program has to know.

Node cannot import this project, so all of that is written beside the model.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from shutil import which

from florence_edge.bundle import MANIFEST, Bundle
from florence_edge.errors import MissingPackageError, RequestError
from florence_edge.files import read_json
from florence_edge.tasks import prompt_for
from florence_edge_export.transformers_js.export import LayoutOptions, export_layout
from florence_edge_export.transformers_js.layout import Dtype

from ..checkpoint import check_same_weights
from ..workload import Workload

PACKAGE = "@huggingface/transformers"
DTYPE: Dtype = "q8"  # what its users take on a CPU


def find_node() -> str:
    """Path of Node.

    Raises:
        MissingPackageError: it is not installed.
    """
    node = which("node")
    if node is None:
        raise MissingPackageError(
            "transformersjs runs in Node, which is not installed. Install Node 20 or newer."
        )
    return node


def write_request(
    checkpoint: str,
    bundle_folder: Path,
    workloads: Sequence[Workload],
    folder: Path,
    modules: str,
) -> None:
    """Write the model and request.json into `folder`, which is made if need be.

    The bundle's model that an earlier call left there is taken as it is: it takes minutes.

    Args:
        checkpoint: the model, as florence-export takes it.
        bundle_folder: what transformers.js is compared with; it gives the size of pictures.
        workloads: give the tasks.
        folder: where the model goes.
        modules: the node_modules that has transformers.js.

    Raises:
        BundleError: checkpoint or bundle cannot be read.
        RequestError: `modules` has no transformers.js, the bundle was exported from another
            checkpoint, or something else is where the model goes.
    """
    if not (Path(modules) / PACKAGE / "package.json").is_file():
        raise RequestError(
            f"{modules} has no {PACKAGE}. Run: npm install {PACKAGE}, and pass its node_modules "
            "as --transformersjs-modules."
        )
    source = check_same_weights(bundle_folder, checkpoint)
    bundle = Bundle.load(bundle_folder)
    model = folder / "model"
    if not _is_made(bundle, model):
        folder.mkdir(parents=True, exist_ok=True)
        options = LayoutOptions(dtypes=(DTYPE,), budget=None, image_size=bundle.size.image_size)
        export_layout(checkpoint, source, model, options)
    content = {
        "model": str(model.resolve()),
        "modules": str(Path(modules).resolve()),
        "dtype": DTYPE,
        "prompts": {
            one.task: prompt_for(one.task, one.text, None, (1, 1)).wording for one in workloads
        },
    }
    (folder / "request.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _is_made(bundle: Bundle, model: Path) -> bool:
    """Whether the folder is the bundle's model in this layout, for pictures of the same size.

    Raises:
        RequestError: there is something, but not that.
    """
    if not model.exists():
        return False
    try:
        weights = read_json(model / MANIFEST)["model"]["sha256"]
        side = read_json(model / "preprocessor_config.json")["size"]["height"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RequestError(
            f"{model} is not a model in transformers.js' layout ({error}). Remove it, or choose "
            "another --work."
        ) from error
    if (weights, side) != (bundle.checkpoint, bundle.size.image_size):
        raise RequestError(
            f"{model} is of another checkpoint than {bundle.folder}, or for pictures of another "
            f"size ({side} pixels, the bundle's are {bundle.size.image_size}). Remove it, or "
            "choose another --work."
        )
    return True
