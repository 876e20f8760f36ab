"""Run a float bundle over pictures and prompts, and keep what its linears read."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime

from florence_edge import contract
from florence_edge.bundle import TOKENIZER, Bundle
from florence_edge.errors import BundleError
from florence_edge.image import pixels
from florence_edge.questions import Question
from florence_edge.text import Tokenizer

from .observe import Seen, is_finite, is_told, observe
from .samples import Sample
from .table import CalibrationTable

Array = npt.NDArray[Any]
Progress = Callable[[int, int], None]  # pictures done, pictures in all


def no_progress(done: int, count: int) -> None:
    """For those who do not want to know."""


# Tasks asked about a picture in turn: image features fill most of the text encoder's input, and
# 8 pictures are enough for all 15 tasks to have their say.
_PROMPTS_A_PICTURE = 2

# kOrtSessionOptionsModelExternalInitializersFileFolderPath of ONNX Runtime 1.20
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


def calibrate(
    bundle: Bundle, samples: Sequence[Sample], progress: Progress, *, threads: int | None = None
) -> CalibrationTable:
    """See what the linears of both encoders read; the same samples give the same table.

    Args:
        bundle: a float32 bundle.
        samples: distinct pictures with their questions.
        progress: told after each picture.
        threads: of ONNX Runtime; None leaves it to that.

    Raises:
        BundleError: the bundle is not float32, or an activation is not finite (it is named).
    """
    if bundle.precision != "fp32":
        raise BundleError(
            f"{bundle.folder} is {bundle.precision}; calibration needs the float32 model. "
            f"Run: florence-export {bundle.model} --output FLOAT_BUNDLE."
        )
    vision, text = (
        ObservedGraph.open(bundle, graph, threads)
        for graph in (contract.VISION_ENCODER, contract.TEXT_ENCODER)
    )
    tokenizer = Tokenizer(bundle.folder / TOKENIZER, bundle.generation)
    prompts = 0
    for index, sample in enumerate(samples):
        square = pixels(sample.read(), bundle.size.image_size)
        features = vision.run({"pixels": square[None]}, "image_features", sample.name)
        for asked in _questions_in_turn(sample, index):
            ids = np.array([tokenizer.prompt_ids(asked.prompt)], dtype=np.int64)
            mask = np.ones((1, bundle.size.image_tokens + ids.shape[1]), dtype=np.int64)
            feeds = {"image_features": features, "input_ids": ids, "encoder_mask": mask}
            text.run(feeds, contract.cross_cache(0, "key"), f"{sample.name}, {asked.task.token}")
            prompts += 1
        progress(index + 1, len(samples))
    return CalibrationTable(
        model=bundle.model,
        checkpoint=bundle.checkpoint,
        image_size=bundle.size.image_size,
        pictures=len(samples),
        prompts=prompts,
        activations={
            name: seen.result() for graph in (vision, text) for name, seen in graph.seen.items()
        },
    )


def _questions_in_turn(sample: Sample, index: int) -> Iterator[Question]:
    for turn in range(_PROMPTS_A_PICTURE):
        yield sample.questions[(index * _PROMPTS_A_PICTURE + turn) % len(sample.questions)]


@dataclass(frozen=True, slots=True)
class ObservedGraph:
    """A graph that tells what its linears read, and what it told so far."""

    session: Any
    told: tuple[str, ...]
    seen: dict[str, Seen]

    @classmethod
    def open(cls, bundle: Bundle, graph: str, threads: int | None) -> "ObservedGraph":
        """Observe a graph of a bundle; nothing is written."""
        model = ir.load(bundle.graph_file(graph))
        channels = observe(model)
        session = open_session(model, bundle.folder, threads=threads)
        outputs = tuple(value.name for value in session.get_outputs())
        seen = {name: Seen.nothing(count) for name, count in channels.items()}
        return cls(session, tuple(name for name in outputs if is_told(name)), seen)

    def run(self, feeds: Mapping[str, Array], output: str, what: str) -> Array:
        """Run, take in what is told, and return one of the graph's own outputs.

        Raises:
            BundleError: an activation is not finite.
        """
        own, *values = self.session.run([output, *self.told], feeds)
        outputs = dict(zip(self.told, values, strict=True))
        for name, seen in self.seen.items():
            if not is_finite(name, outputs):
                raise BundleError(
                    f"What {name} reads is not finite for {what}: the activations overflow, or "
                    "the weights are damaged. Check the checkpoint with florence-export --verify."
                )
            seen.add(name, outputs)
        result: Array = own
        return result


def open_session(model: ir.Model, weights: Path, *, threads: int | None = None) -> Any:
    """A session of ONNX Runtime's CPU with a model in memory, its weights file in a folder."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(_WEIGHTS_FOLDER, str(weights))
    if threads is not None:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
