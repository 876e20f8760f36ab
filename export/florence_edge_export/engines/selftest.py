"""Do fresh engines compute what the exporter computed? The runtime that users run is asked."""

from pathlib import Path

from florence_edge.backends import open_backend
from florence_edge.bundle import Bundle
from florence_edge.errors import BackendError
from florence_edge.selftest import self_test

# Largest absolute difference from reference.npz. Chosen: no engine has run on a GPU yet.
LIMITS = {"fp32": 0.01, "fp16": 0.1}
LIMIT_OF_OTHERS = 0.5


def check_engines(bundle: Bundle, device: str, engine_dir: Path) -> dict[str, float]:
    """The largest error of each sampled output, of the engines in `engine_dir` on `device`.

    Raises:
        BackendError: an output is not close to the reference.
        BundleError: the bundle has no reference, or a value is not finite.
    """
    backend = open_backend(bundle, device, engine_dir=engine_dir)
    errors = self_test(bundle, backend)
    limit = LIMITS.get(bundle.precision, LIMIT_OF_OTHERS)
    far = {name: error for name, error in errors.items() if not error <= limit}
    if far:
        told = ", ".join(f"{name} by {error:.3g}" for name, error in far.items())
        raise BackendError(
            f"The engines are off: {told}, expected at most {limit}. They were not kept. Find the "
            "graph with florence-build --compare, or export the bundle with --precision fp32."
        )
    return errors
