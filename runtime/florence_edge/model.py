"""The model: a bundle on an engine, and questions about pictures.

model = Florence2.load("bundle")
model.run("<OD>", "car.jpg")                    one task, one picture
model.run_batch("<OD>", ["a.jpg", "b.jpg"])     one task, several pictures at once
view = model.look("car.jpg")                    one picture, several tasks:
view.detect(), view.caption(), view.ocr()       the vision encoder runs once
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from .backends import Backend, open_backend
from .backends.features import join_features
from .bundle import TOKENIZER, Bundle
from .errors import RequestError
from .generate import generate
from .logits import Ints, forced_token
from .options import Generation, GenerationOptions, resolve
from .pictures import PictureLike, load_pictures, squares
from .questions import Question, questions_of
from .regions import Convention, check_convention
from .result import Result, read_answer
from .scores import TokenPiece
from .search import Hypothesis
from .selftest import self_test
from .stopwatch import Stopwatch
from .tasks import Task
from .text import Tokenizer
from .view import Box, View


class Florence2:
    """Florence-2 on one engine. Open it with `Florence2.load`; use it from one thread at a time."""

    def __init__(self, bundle: Bundle, backend: Backend, tokenizer: Tokenizer) -> None:
        self.bundle = bundle
        self.backend = backend
        self._tokenizer = tokenizer

    @staticmethod
    def load(
        folder: str | Path,
        device: str = "cpu",
        *,
        threads: int | None = None,
        engine_dir: str | Path | None = None,
    ) -> "Florence2":
        """Open the bundle in `folder` on `device`: `cpu`, `cuda`, `cuda:1`, `tensorrt`, ...

        `threads` limits the threads of the CPU engine; None leaves the choice to it. `engine_dir`
        is where florence-build put TensorRT engines, if not into the bundle.

        Raises:
            BundleError: there is no bundle, or it is damaged or of another contract version.
            BackendError: the engine is not installed or did not become active.
        """
        bundle = Bundle.load(folder)
        tokenizer = Tokenizer(bundle.folder / TOKENIZER, bundle.generation)
        engines = None if engine_dir is None else Path(engine_dir)
        backend = open_backend(bundle, device, threads=threads, engine_dir=engines)
        return Florence2(bundle, backend, tokenizer)

    def run(
        self,
        task: str | Task,
        image: PictureLike,
        text: str | None = None,
        *,
        region: Box | None = None,
        options: GenerationOptions | None = None,
        convention: Convention = "native",
    ) -> Result:
        """Answer one task about one picture; see `View.run` for the arguments.

        `image` is a path, bytes, a PIL image or an HxWx3 uint8 array in RGB order; on the GPU, an
        array with `__cuda_array_interface__` (PyCUDA, CuPy, torch, numba).
        """
        view = self.look(image, options=options, convention=convention)
        return view.run(task, text, region=region)

    def ask(
        self, image: PictureLike, prompt: str, *, options: GenerationOptions | None = None
    ) -> Result:
        """Answer a prompt in the user's own words (VQA and other fine-tunes)."""
        return self.look(image, options=options).ask(prompt)

    def run_batch(
        self,
        task: str | Task,
        images: Sequence[PictureLike],
        texts: Sequence[str | None] | None = None,
        *,
        regions: Sequence[Box | None] | None = None,
        options: GenerationOptions | None = None,
        convention: Convention = "native",
    ) -> list[Result]:
        """Answer one task about several pictures in one batch; each answer is that of `run`.

        Args:
            task: the task of all pictures.
            images: what `run` takes, one a picture.
            texts: one a picture, where the task takes text.
            regions: one a picture, where the task takes a region.
            options: how to generate.
            convention: whose coordinates to give.
        """
        views = self.look_batch(images, options=options, convention=convention)
        sizes = [view.size for view in views]
        return self.answer(views, questions_of(task, sizes, texts, regions), options)

    def look(
        self,
        image: PictureLike,
        *,
        options: GenerationOptions | None = None,
        convention: Convention = "native",
    ) -> View:
        """Encode a picture once; the view answers any number of tasks about it.

        Raises:
            ImageError: the picture cannot be read.
        """
        (view,) = self.look_batch([image], options=options, convention=convention)
        return view

    def look_batch(
        self,
        images: Sequence[PictureLike],
        *,
        options: GenerationOptions | None = None,
        convention: Convention = "native",
    ) -> list[View]:
        """Encode several pictures in one run of the vision encoder."""
        check_convention(convention)
        self.resolve(options)  # what cannot be generated should not cost a look
        if not images:
            return []
        watch, side = Stopwatch(), self.bundle.size.image_size
        with watch.stage("image"):
            pictures = load_pictures(images)
            seen = squares(pictures, side)
        with watch.stage("vision"):
            features = self.backend.look(seen)
        return [
            View(
                model=self,
                picture=picture,
                features=features[i : i + 1],
                options=options,
                convention=convention,
                seconds=watch.share(len(pictures)),
            )
            for i, picture in enumerate(pictures)
        ]

    def answer(
        self,
        views: Sequence[View],
        questions: Sequence[Question],
        options: GenerationOptions | None = None,
    ) -> list[Result]:
        """Answer one question about each view, as one batch.

        A view may stand there several times, with a question each. `Result.seconds` gives each
        answer its share of the batch's time.
        """
        if not views:
            return []
        generation = self.resolve(options)
        watch = Stopwatch()
        with watch.stage("prompt"):
            input_ids, encoder_mask = self.encode_prompts(questions)
            features = join_features([view.features for view in views])
            decoder = self.backend.read(
                features, input_ids, encoder_mask, beams=generation.num_beams
            )
        with watch.stage("decode"):
            hypotheses = generate(decoder, generation, images=len(views))
        with watch.stage("parse"):
            results = [
                self._read(view, asked, hypothesis, generation)
                for view, asked, hypothesis in zip(views, questions, hypotheses, strict=True)
            ]
        shares = watch.share(len(views))
        return [
            replace(result, seconds={**view.seconds, **shares})
            for view, result in zip(views, results, strict=True)
        ]

    def self_test(self) -> dict[str, float]:
        """How far this engine is from what the exporter computed, per output (largest error).

        Raises:
            BundleError: the bundle has no reference, or the engine's values are not finite.
        """
        return self_test(self.bundle, self.backend)

    def resolve(self, options: GenerationOptions | None) -> Generation:
        """Options with everything filled in that they leave to the checkpoint."""
        return resolve(options, self.bundle.generation, self.bundle.size)

    def encode_prompts(self, questions: Sequence[Question]) -> tuple[Ints, Ints]:
        """Prompts as ids [B, T], padded to the right, and the mask [B, image tokens + T].

        Raises:
            RequestError: a prompt is longer than the encoder has room for.
        """
        size = self.bundle.size
        prompts = [self._tokenizer.prompt_ids(asked.prompt) for asked in questions]
        longest = max(map(len, prompts))
        room = size.encoder_positions - size.image_tokens
        if longest > room:
            raise RequestError(
                f"The prompt has {longest} tokens, but beside the picture this model has room for "
                f"{room}. Shorten the text."
            )
        input_ids = np.full((len(prompts), longest), self.bundle.generation.pad_token_id, np.int64)
        mask = np.ones((len(prompts), size.image_tokens + longest), dtype=np.int64)
        for row, ids in enumerate(prompts):
            input_ids[row, : len(ids)] = ids
            mask[row, size.image_tokens + len(ids) :] = 0
        return input_ids, mask

    def _read(
        self, view: View, asked: Question, hypothesis: Hypothesis, generation: Generation
    ) -> Result:
        ids = hypothesis.token_ids
        pieces = [
            TokenPiece(
                token_id=token_id,
                text=text,
                log_prob=log_prob,
                forced=length == 0 or forced_token(length, generation) is not None,
            )
            for length, (token_id, text, log_prob) in enumerate(
                zip(ids, self._tokenizer.pieces(ids), (0.0, *hypothesis.log_probs), strict=True)
            )
        ]
        return read_answer(
            asked.task,
            pieces,
            image_size=view.size,
            text_input=asked.text,
            convention=view.convention,
            truncated=hypothesis.truncated,
        )
