"""The model: a bundle on an engine, and questions about pictures.

model = Florence2.load("bundle")
model.run("<OD>", "car.jpg")                    one task, one picture
model.run_batch("<OD>", ["a.jpg", "b.jpg"])     one task, several pictures at once
view = model.look("car.jpg")                    one picture, several tasks:
view.detect(), view.caption(), view.ocr()       the vision encoder runs once
model.run_many(paths, ["OD", "CAPTION"])        many pictures, decoded ahead
model.watch(0, "OD")                            a camera, a stream or a video
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event

from .answers.regions import Convention, check_convention
from .answers.result import Result
from .backends import Backend, open_backend, within_engine
from .backends.features import join_features
from .bundle import TOKENIZER, Bundle
from .generate import generate
from .logits import Ints
from .looking import look_at, prepare
from .options import Generation, GenerationOptions, resolve
from .pictures import PictureLike
from .questions import Question, questions_of
from .selftest import self_test
from .series.asking import asked_of
from .series.many import Answered, run_many
from .stopping import stop_after
from .stopwatch import Stopwatch
from .tasks import Task
from .text import Tokenizer
from .video.opening import SourceLike
from .video.watch import Watched, Watching, watch
from .view import Box, View
from .words import batch_of_prompts, read_words


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
        engine_precision: str | None = None,
    ) -> "Florence2":
        """Open the bundle in `folder` on `device`: `cpu`, `cuda:1`, `tensorrt`, `openvino`, ...

        `threads` limits the CPU engine's; `engine_dir` has TensorRT engines that are not in the
        bundle; `engine_precision` "bf16" lets OpenVINO round, which else computes in float32.

        Raises:
            BundleError: there is no bundle, or it is damaged or of another contract version.
            BackendError: the engine is not installed or did not become active.
        """
        bundle = Bundle.load(folder)
        backend = open_backend(
            bundle, device, threads=threads, engine_dir=engine_dir, precision=engine_precision
        )
        bundle = within_engine(bundle, backend)
        return Florence2(bundle, backend, Tokenizer(bundle.folder / TOKENIZER, bundle.generation))

    def run(  # noqa: PLR0913 - the door; all but three are named by the caller
        self,
        task: str | Task,
        image: PictureLike,
        text: str | None = None,
        *,
        region: Box | None = None,
        options: GenerationOptions | None = None,
        convention: Convention = "native",
        cancel: Event | None = None,
    ) -> Result:
        """Answer one task about one picture; see `View.run` for the arguments.

        `image` is a path, bytes, a PIL image or an HxWx3 uint8 array in RGB order; on the GPU, an
        array with `__cuda_array_interface__` (PyCUDA, CuPy, torch, numba).
        """
        view = self.look(image, options=options, convention=convention)
        return view.run(task, text, region=region, cancel=cancel)

    def ask(
        self, image: PictureLike, prompt: str, *, options: GenerationOptions | None = None
    ) -> Result:
        """Answer a prompt in the user's own words (VQA and other fine-tunes)."""
        return self.look(image, options=options).ask(prompt)

    def run_batch(  # noqa: PLR0913 - as run
        self,
        task: str | Task,
        images: Sequence[PictureLike],
        texts: Sequence[str | None] | None = None,
        *,
        regions: Sequence[Box | None] | None = None,
        options: GenerationOptions | None = None,
        convention: Convention = "native",
        cancel: Event | None = None,
    ) -> list[Result]:
        """Answer one task about several pictures in one batch; each answer is that of `run`.

        Args:
            task: the task of all pictures.
            images: what `run` takes, one a picture.
            texts: one a picture, where the task takes text.
            regions: one a picture, where the task takes a region.
            options: how to generate.
            convention: whose coordinates to give.
            cancel: as in `View.run`.
        """
        views = self.look_batch(images, options=options, convention=convention)
        sizes = [view.size for view in views]
        return self.answer(views, questions_of(task, sizes, texts, regions), options, cancel)

    def run_many(  # noqa: PLR0913 - as run
        self,
        images: Iterable[PictureLike],
        tasks: str | Task | Sequence[str | Task],
        text: str | None = None,
        *,
        region: Box | None = None,
        options: GenerationOptions | None = None,
        convention: Convention = "native",
        batch: int = 1,
    ) -> Iterator[Answered]:
        """Answer the same tasks about any number of pictures, in order, `batch` of them at once.

        The next ones are read meanwhile, and few are in memory at a time. One that cannot be read
        is `Answered` with its error. Of several tasks, text and region go to those that take them.
        """
        return run_many(self, images, asked_of(tasks, text, region), options, convention, batch)

    def watch(  # noqa: PLR0913 - as run
        self,
        source: SourceLike,
        tasks: str | Task | Sequence[str | Task],
        text: str | None = None,
        *,
        region: Box | None = None,
        options: GenerationOptions | None = None,
        convention: Convention = "native",
        cancel: Event | None = None,
        how: Watching | None = None,
    ) -> Iterator[Watched]:
        """Answer tasks about the frames of a camera (its number), a URL, a video file, a pipeline.

        A live source gives its newest frame, and those that came meanwhile are dropped; of a file
        every frame is answered. Setting `cancel` ends it, from whichever thread.

        Raises:
            SourceError: the source cannot be read, or is lost for good.
        """
        asked = asked_of(tasks, text, region)
        return watch(self, source, asked, options, convention, cancel, how or Watching())

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
        prepared = prepare(images, self.bundle.size.image_size)
        return look_at(self, prepared, options, convention)

    def answer(
        self,
        views: Sequence[View],
        questions: Sequence[Question],
        options: GenerationOptions | None = None,
        cancel: Event | None = None,
    ) -> list[Result]:
        """Answer one question about each view, as one batch.

        A view may stand there several times, with a question each. `Result.seconds` gives each
        answer its share of the batch's time.
        """
        if not views:
            return []
        generation = self.resolve(options)
        stop = stop_after(options.max_time if options else None, cancel)
        watch = Stopwatch()
        with watch.stage("prompt"):
            input_ids, mask = self.encode_prompts(questions)
            features = join_features([view.features for view in views])
            decoder = self.backend.read(features, input_ids, mask, beams=generation.num_beams)
        with watch.stage("decode"):
            hypotheses = generate(decoder, generation, images=len(views), stop=stop)
        with watch.stage("parse"):
            results = [
                read_words(view, asked, hypothesis, self._tokenizer, generation)
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
        prompts = [asked.prompt for asked in questions]
        pad = self.bundle.generation.pad_token_id
        return batch_of_prompts(prompts, self._tokenizer, self.bundle.size, pad=pad)
