"""A bundle beside transformers: the same inputs to both, and how far the outputs are apart.

Errors are the largest absolute difference, in units of the reference's standard deviation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from florence_edge import Florence2, GenerationOptions, contract
from florence_edge.backends.host import HostBackend
from florence_edge.encoded_image import EncodedImage
from florence_edge.tasks import prompt_for
from florence_edge_calibration.scenes import ask_everything, draw_scene, generate_scene
from florence_edge_export import synthetic
from florence_edge_export.checkpoint.config import read_config
from florence_edge_export.checkpoint.defaults import read_image_processing
from florence_edge_export.checkpoint.loader import Checkpoint, read_checkpoint
from florence_edge_export.export import ExportOptions, export
from florence_edge_export.verify.reference import Reference, generation_config

from . import folders

TIE = 1e-4  # log-probabilities closer than this may be ordered either way by rounding
MAX_TIES = 1 / 200


@dataclass(frozen=True)
class Pair:
    """The exported model and the original."""

    model: Florence2
    reference: Reference
    checkpoint: Checkpoint

    @property
    def backend(self) -> HostBackend:
        assert isinstance(self.model.backend, HostBackend)
        return self.model.backend

    @property
    def side(self) -> int:
        return self.model.bundle.size.image_size

    def noise(self, count: int, seed: int = 0) -> npt.NDArray[np.uint8]:
        """`count` pictures of the model's size, none alike."""
        rng = np.random.default_rng(seed)
        side = self.side
        coarse = rng.integers(0, 256, (count, side // 8 + 1, side // 8 + 1, 3), dtype=np.uint8)
        return np.ascontiguousarray(coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :side, :side])

    def normalized(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """[B, 3, S, S] as the original's image processor hands it over."""
        image = read_image_processing(self.checkpoint.folder)
        mean = np.array(image.mean, dtype=np.float32)
        values = (pixels.astype(np.float32) / 255 - mean) / np.array(image.std, dtype=np.float32)
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2))

    def vision_error(self, count: int) -> float:
        pixels = self.noise(count)
        expected = self.reference.image_features(self.normalized(pixels))
        return error(self.backend.encode_image(pixels), expected)

    def features(self, count: int) -> npt.NDArray[Any]:
        return self.reference.image_features(self.normalized(self.noise(count)))

    def text_error(self, lengths: Sequence[int], features: npt.NDArray[Any] | None = None) -> float:
        """One batch of prompts of these lengths, each compared with the original's alone."""
        features = self.features(len(lengths)) if features is None else features
        input_ids, mask = self.prompts(lengths)
        found = self.backend.cross_caches(features, input_ids, mask)
        errors = []
        for row, length in enumerate(lengths):
            hidden = self.reference.encode(
                features[row : row + 1], input_ids[row, :length].tolist()
            )
            for name, expected in self.reference.cross_caches(hidden).items():
                visible = found[name][row : row + 1, :, : expected.shape[2]]
                errors.append(error(visible, expected))
        return max(errors)

    def decoder_error(
        self,
        lengths: Sequence[int],
        beams: int,
        steps: int,
        features: npt.NDArray[Any] | None = None,
    ) -> float:
        """Log-probabilities along random tokens, other ones in each row, against the original."""
        features = self.features(len(lengths)) if features is None else features
        input_ids, mask = self.prompts(lengths)
        decoder = self.backend.prefill(features, input_ids, mask, beams=beams)
        rng = np.random.default_rng(7)
        shape = (len(lengths), beams, steps)
        tokens = rng.integers(3, self.model.bundle.size.vocab_size, shape)
        keep = np.tile(np.arange(beams), (len(lengths), 1))
        found = np.empty((*shape, self.model.bundle.size.vocab_size), dtype=np.float32)
        for step in range(steps):
            scores = decoder.step(tokens[:, :, step], keep)
            for image, of_image in enumerate(scores):
                found[image, :, step] = of_image.full()
                assert_top_k_is_the_best(of_image)
        errors = []
        for row, length in enumerate(lengths):
            hidden = self.reference.encode(
                features[row : row + 1], input_ids[row, :length].tolist()
            )
            for beam in range(beams):
                expected = self.reference.log_probs(hidden, tokens[row, beam].tolist())
                errors.append(error(found[row, beam], expected))
        return max(errors)

    def prompts(self, lengths: Sequence[int]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        size = self.model.bundle.size
        rng = np.random.default_rng(5)
        input_ids = np.full((len(lengths), max(lengths)), 1, dtype=np.int64)
        mask = np.zeros((len(lengths), size.image_tokens + max(lengths)), dtype=np.int64)
        for row, length in enumerate(lengths):
            input_ids[row, :length] = rng.integers(3, size.vocab_size, length)
            mask[row, : size.image_tokens + length] = 1
        return input_ids, mask

    def answers(self, beams: int, max_new_tokens: int, scene: int = 11) -> "Answers":
        """All 15 tasks about a generated picture, ours and the original's."""
        drawn = generate_scene(scene)
        picture = draw_scene(drawn, self.side)
        view = self.model.encode(picture)
        pixels = np.asarray(picture.resize((self.side, self.side)), dtype=np.uint8)[None]
        features = self.reference.image_features(self.normalized(pixels))
        options = GenerationOptions(num_beams=beams, max_new_tokens=max_new_tokens)
        answers = Answers([], [])
        for question in ask_everything(drawn):
            text = question.text or None
            found = list(view.run(question.task, text, options=options).token_ids)
            hidden = self.reference.encode(features, self.prompt_ids(view, question.task, text))
            expected = self.reference.generate(
                hidden, generation_config(self.model.generation_config(options))
            )
            answers.add(found, expected, lambda ids, h=hidden: self.reference.log_probs(h, ids))
        return answers

    def prompt_ids(self, view: EncodedImage, task: str, text: str | None) -> list[int]:
        prompt = prompt_for(task, text, None, view.image.size)
        ids: list[int] = self.model.encode_prompts([prompt])[0][0].tolist()
        return ids


@dataclass
class Answers:
    """Token ids compared; a tie is where the original itself has next to no preference."""

    verdicts: list[str]
    lengths: list[int]

    def add(self, found: list[int], expected: list[int], log_probs: Any) -> None:
        self.lengths.append(len(expected))
        if found == expected:
            self.verdicts.append("equal")
            return
        pairs = enumerate(zip(found, expected))  # noqa: B905
        parting = next((i for i, (a, b) in pairs if a != b), None)
        if parting is None:  # one ends where the other goes on
            self.verdicts.append(f"{found} != {expected}")
            return
        after = log_probs(expected[:parting])[-1]
        gap = abs(float(after[expected[parting]] - after[found[parting]]))
        self.verdicts.append("tie" if gap < TIE else f"{found} != {expected}, gap {gap}")


def assert_equal(answers: Sequence[Answers]) -> None:
    """Equal ids, but for one tie in 200."""
    verdicts = [verdict for several in answers for verdict in several.verdicts]
    different = [verdict for verdict in verdicts if verdict not in ("equal", "tie")]
    assert not different
    assert verdicts.count("tie") <= len(verdicts) * MAX_TIES


def pair_of(checkpoint: Path, bundle: Path) -> Pair:
    """A bundle that is there already, and the checkpoint that it was exported from."""
    read = read_checkpoint(checkpoint)
    return Pair(Florence2.load(bundle, threads=1), Reference(read), read)


def open_pair(checkpoint: Path, bundle: Path, image_size: int | None = None) -> Pair:
    export("test", checkpoint, bundle, ExportOptions(image_size=image_size))
    return pair_of(checkpoint, bundle)


def write_variant(source: Path, folder: Path, edit: Any) -> Path:
    """A native checkpoint of a changed configuration with random weights to fit."""
    folders.copy(source, folder)
    folders.edit_config(folder, edit)
    rng = np.random.default_rng(1)
    tensors = {
        f"model.{name}": synthetic._random(rng, name, shape)
        for name, shape in synthetic.native_shapes(read_config(folder))
    }
    folders.write(folder, tensors)
    return folder


def error(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found.astype(np.float64) - expected).max() / expected.std())


def assert_top_k_is_the_best(scores: Any) -> None:
    full = scores.full()
    best = -np.sort(-full, axis=1)[:, : contract.TOP_K]
    np.testing.assert_array_equal(scores.top_log_probs, best)
    np.testing.assert_array_equal(np.take_along_axis(full, scores.top_ids, axis=1), best)
