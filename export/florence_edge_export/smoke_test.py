"""The smoke test of every export: its graphs are run once, and what they give is finite.

    fp32   on ONNX Runtime's CPU, about probes (see florence_edge_calibration.probes)
    fp16   the same, and compared with float32 (float16.py)
    int8   the same; the gate compares (int8/gate.py)

The decoders for TensorRT are fed a step of the portable one, and must give its scores.
"""

import logging

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from florence_edge import contract
from florence_edge.backends.base import Backend, NamedArrays
from florence_edge.bundle import Bundle
from florence_edge.engine_failures import engine_failure, is_shortage
from florence_edge.errors import BundleError
from florence_edge_calibration.int8.observer import open_session
from florence_edge_calibration.overflow import GraphRecord, observe, record
from florence_edge_calibration.probes import Probe, answer, deviation, make_probes

logger = logging.getLogger(__name__)

# Standard deviations between the scores of a bundle's two decoders. In float16 they were at most
# 0.01 apart, as they add up in another order.
_SAME = 0.1


def smoke_test(bundle: Bundle, backend: Backend) -> None:
    """Run the three graphs of a bundle about probes.

    Raises:
        BundleError: a graph gives values that are not finite.
    """
    for probe in make_probes(bundle):
        broken = answer(bundle, backend, probe).not_finite()
        if not broken:
            continue
        if bundle.precision == "fp32":
            observe(bundle, [probe])  # raises, and names the layer
        raise BundleError(
            f"{broken} has values that are not finite about {probe.name}: {bundle.precision} does "
            f"not hold what {bundle.model} computes. {other_precision(bundle.precision)}"
        )


def other_precision(precision: str) -> str:
    """What to do where a precision does not serve a checkpoint."""
    if precision == "fp32":
        return "Take a checkpoint from before its training diverged."
    return "Export it with --precision fp32."


def check_tensorrt_decoders(bundle: Bundle, probe: Probe) -> None:
    """Feed the decoders for TensorRT a step of the portable one, and compare their scores.

    Raises:
        BundleError: they differ, or are not finite.
        BackendError: this machine ran out of memory or threads.
    """
    records = {name: GraphRecord() for name in contract.GRAPHS}
    answer(bundle, record(bundle, records), probe)
    step = records[contract.DECODER]
    for name, feeds in (
        (contract.TENSORRT_DECODER, step.feeds),
        (contract.IN_PLACE, _in_place_feeds(bundle, step.feeds)),
    ):
        _check_same(bundle, name, feeds, step.outputs["logits"])


def _check_same(
    bundle: Bundle, name: str, feeds: NamedArrays, expected: npt.NDArray[np.floating]
) -> None:
    try:
        session = open_session(ir.load(bundle.graph_file(name)), bundle.folder)
    except Exception as error:  # ONNX Runtime's classes have no other base
        if is_shortage(error):
            raise engine_failure(f"{name} was not run", error) from error
        logger.warning("%s was not run, only built: %s", name, error)
        return
    (logits,) = session.run(["logits"], dict(feeds))
    apart = deviation(logits, expected)
    if not apart <= _SAME:
        raise BundleError(
            f"The scores of {name} are {apart:.3g} standard deviations from the portable "
            f"decoder's, expected at most {_SAME}. Add --portable-decoder, and report it please."
        )


def _in_place_feeds(bundle: Bundle, feeds: NamedArrays) -> NamedArrays:
    """A step's inputs, with caches of all positions, and the rows to attend to."""
    size = bundle.size
    attended = feeds[contract.self_cache(0, "key")].shape[2]
    caches = [
        contract.self_cache(layer, part)
        for layer in range(size.decoder_layers)
        for part in contract.PARTS
    ]
    longer = {}
    for name in caches:
        cache = feeds[name]
        shape = (*cache.shape[:2], size.decoder_positions, cache.shape[3])
        longer[name] = np.zeros(shape, cache.dtype)
        longer[name][:, :, :attended] = cache
    return {**feeds, **longer, "rows": np.arange(attended)}
