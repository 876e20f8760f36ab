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
from .bundle import TOKENIZER, Bundle
from .errors import RequestError
from .generate import generate
from .image import ImageLike, load_image, pixels
from .logits import Ints, forced_token
from .options import Generation, GenerationOptions, resolve
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
    def load(folder: str | Path, device: str = "cpu", *, threads: int | None = None) -> "Florence2":
        """Open the bundle in `folder` on `device`: `cpu`, `cuda` or `cuda:1`.

        `threads` limits the threads of the CPU engine; None leaves the choice to it.

        Raises:
            BundleError: there is no bundle, or it is damaged or of another contract version.
            BackendError: the engine is not installed or did not become active.
        """
        bundle = Bundle.load(folder)
        tokenizer = Tokenizer(bundle.folder / TOKENIZER, bundle.generation)
        return Florence2(bundle, open_backend(bundle, device, threads=threads), tokenizer)

    def run(
        self,
        task: str | Task,
        image: ImageLike,
        text: str | None = None,
        *,
        region: Box | None = None,
        options: GenerationOptions | None = None,
        convention: Convention = "native",
    ) -> Result:
        """Answer one task about one picture; see `View.run` for the arguments.

        `image` is a path, bytes, a PIL image or an HxWx3 uint8 array in RGB order.
        """
        view = self.look(image, options=options, convention=convention)
        return view.run(task, text, region=region)

    def ask(
        self, image: ImageLike, prompt: str, *, options: GenerationOptions | None = None
    ) -> Result:
        """Answer a prompt in the user's own words (VQA and other fine-tunes)."""
        return self.look(image, options=options).ask(prompt)

    def run_batch(
        self,
        task: str | Task,
        images: Sequence[ImageLike],
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
        sizes = [view.image.size for view in views]
        return self.answer(views, questions_of(task, sizes, texts, regions), options)

    def look(
        self,
        image: ImageLike,
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
        images: Sequence[ImageLike],
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
            loaded = [load_image(image) for image in images]
            squares = np.stack([pixels(image, side) for image in loaded])
        with watch.stage("vision"):
            features = self.backend.look(squares)
        return [
            View(
                model=self,
                image=image,
                features=features[i : i + 1],
                options=options,
                convention=convention,
                seconds=watch.share(len(loaded)),
            )
            for i, image in enumerate(loaded)
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
            features = np.concatenate([view.features for view in views])
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
            image_size=view.image.size,
            text_input=asked.text,
            convention=view.convention,
            truncated=hypothesis.truncated,
        )
