"""The model: a bundle on an engine, and what it answers about pictures.

    with Florence2.load("bundle", device="cuda:0") as model:
        model.run("street.jpg", "OD")                one picture, one task
        model.run(["a.jpg", "b.jpg"], "OD")          several pictures, as one batch
        model.run("street.jpg", ["OD", "CAPTION"])   several tasks, one encoding
        view = model.encode("street.jpg")            what `EncodedImage` is asked then

Many pictures: `batch.run_many`. A camera, a stream or a video: `video.watch.watch`.
"""

from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import overload

from .backends.base import Backend
from .backends.open import open_engine, within_engine
from .bundle import TOKENIZER, Bundle
from .devices import Device, EngineSettings
from .encoded_image import EncodedImage
from .engine_lock import EngineLock
from .errors import RequestError
from .image import ImageLike
from .image_file import MAX_PIXELS, Color, DeepRange, ImageOptions, check_color
from .options import GenerationConfig, GenerationOptions, resolve
from .processing import PreparedImages, encode_prompts, prepare_images
from .questions import Answer, Engine, OnAnswer, Question, raise_error
from .regions import Convention, check_convention
from .results.result import VISION, Result
from .search import Ints
from .selftest import self_test
from .tasks import (
    Prompt,
    RegionEach,
    Task,
    TaskLike,
    TaskList,
    TextEach,
    listed,
    requests_for,
    with_own,
)
from .tokenizer import OnText, Tokenizer


class Florence2:
    """Florence-2 on one engine; `Florence2.load` opens it, `close` or a `with` block frees it.

    Threads may share it: their calls run one after the other, and images are decoded beside them.
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        tokenizer: Tokenizer,
        convention: Convention = "native",
        image_options: ImageOptions | None = None,
    ) -> None:
        self.bundle = bundle
        self.backend = backend
        self.convention: Convention = convention
        self.image_options = image_options or ImageOptions()
        self.engine_settings: EngineSettings | None = None  # what `load` has set up
        self._tokenizer = tokenizer
        self._lock = EngineLock()
        self._engine = Engine(
            bundle=bundle,
            backend=backend,
            tokenizer=tokenizer,
            convention=convention,
            lock=self._lock,
        )

    @staticmethod
    def load(  # noqa: PLR0913 - the door; all but two are named by the caller
        folder: str | Path,
        device: str | Device = "cpu",
        *,
        convention: Convention = "native",
        threads: int | None = None,
        spinning: bool | None = None,
        engine_dir: str | Path | None = None,
        engine_precision: str | None = None,
        max_pixels: int = MAX_PIXELS,
        deep_range: DeepRange = "full",
        verify: bool = True,
    ) -> "Florence2":
        """Open the bundle in `folder` on `device`: `auto`, `cpu`, `cuda:1`, `openvino`, ...

        `convention` "native" gives the whole-number coordinates of transformers, "microsoft" the
        fractions of the original code. `threads` are the CPU engine's, and `spinning` has them
        wait busily; `engine_dir` has TensorRT engines that are not in the bundle;
        `engine_precision` "bf16" lets OpenVINO round. What is left out stands in `engine_settings`.
        Pictures of more than `max_pixels` are refused; those of 16 bits a channel turn white at
        65535, or with `deep_range` "own" at their largest value. Unless `verify` is False, weights
        and engines are compared with their hashes, too.

        Raises:
            BundleError: there is no bundle, or it is damaged or of another contract version.
            BackendError: the engine did not become active, or does not fit the bundle.
            MissingPackageError: the engine is not installed.
            RequestError: a device, a convention or another argument does not exist.
        """
        check_convention(convention)
        image_options = ImageOptions(max_pixels=max_pixels, deep_range=deep_range)
        bundle = Bundle.load(folder)
        opened = open_engine(
            bundle,
            device,
            threads=threads,
            spinning=spinning,
            engine_dir=engine_dir,
            precision=engine_precision,
            verify=verify,
        )
        bundle = within_engine(bundle, opened.backend)
        tokenizer = Tokenizer(bundle.folder / TOKENIZER, bundle.generation)
        model = Florence2(bundle, opened.backend, tokenizer, convention, image_options)
        model.engine_settings = opened.settings
        return model

    # One picture and one task give a result, lists give lists. (A str is a Sequence to mypy.)
    # fmt: off
    @overload
    def run(self, image: ImageLike, task: TaskLike,  # type: ignore[overload-overlap]
            text: TextEach = None, *, region: RegionEach = None, color: Color = "rgb",
            options: GenerationOptions | None = None, cancel: Event | None = None,
            on_text: OnText | None = None) -> Result: ...
    @overload
    def run(self, image: ImageLike, task: TaskList,  # type: ignore[overload-overlap]
            text: TextEach = None, *, region: RegionEach = None, color: Color = "rgb",
            options: GenerationOptions | None = None,
            cancel: Event | None = None) -> list[Result]: ...
    @overload
    def run(self, image: Sequence[ImageLike], task: TaskLike, text: TextEach = None, *,
            region: RegionEach = None, color: Color = "rgb",
            options: GenerationOptions | None = None,
            cancel: Event | None = None) -> list[Result]: ...
    @overload
    def run(self, image: Sequence[ImageLike], task: TaskList, text: TextEach = None, *,
            region: RegionEach = None, color: Color = "rgb",
            options: GenerationOptions | None = None,
            cancel: Event | None = None) -> list[list[Result]]: ...
    # fmt: on

    def run(  # noqa: PLR0913 - the door; all but three are named by the caller
        self,
        image: ImageLike | Sequence[ImageLike],
        task: TaskLike | TaskList,
        text: TextEach = None,
        *,
        region: RegionEach = None,
        color: Color = "rgb",
        options: GenerationOptions | None = None,
        cancel: Event | None = None,
        on_text: OnText | None = None,
    ) -> Result | list[Result] | list[list[Result]]:
        """Answer one task or several about one picture or several.

        Args:
            image: a path, bytes, an open file, a PIL image or an HxWx3 uint8 array in RGB order;
                on the GPU, an RGB array with `__cuda_array_interface__` (PyCUDA, CuPy, torch, ...).
                A list of them is one batch, and so is an NxHxWx3 array or what a generator gives;
                each answer is what the picture gets alone.
            task: one of the 15, `OD` or `<OD>`; several share one encoding.
            text: what the task takes beside the picture; region tasks take four `<loc_n>`. One
                for all pictures, or a list with one for each; for the tasks that take one.
            region: left, top, right, bottom in pixels, or `RelativeBox`; one, or one for each.
            color: the order of an array's channels: "bgr" for those of OpenCV (`cv2.imread`,
                `VideoCapture.read`). Pictures of other kinds know theirs.
            options: how to generate; what they leave open is the checkpoint's.
            cancel: once another thread sets it, the answer is what is complete by then, and its
                status is `truncated`, as with `GenerationOptions.max_time`.
            on_text: called by this thread with each new piece of the answer while it is made; for
                one picture and one task. Joined, the pieces are `Result.raw_text` without `<s>`,
                `</s>` and `<pad>`; none is taken back. With beams they come when all beams that
                may still win agree.

        Raises:
            ImageError: a picture cannot be read.
            RequestError: a task does not exist, or text, region or options do not fit.
        """
        images, one_image = listed(image)
        one_task = isinstance(task, str | Task)
        if on_text is not None and not (one_image and one_task):
            raise RequestError("on_text needs one picture and one task, not lists of them.")
        asked, count = with_own(task, self.bundle.tasks), None if one_image else len(images)
        requests = requests_for(asked, text, region, images=count)
        views, _ = listed(self.encode(images, options=options, color=color))
        prompts = [each.prompts(view.size) for each, view in zip(requests, views, strict=True)]
        rows = self.answer_each(views, prompts, cancel=cancel, on_text=on_text)
        results = [row[0] for row in rows] if one_task else rows
        return results[0] if one_image else results

    def ask(
        self,
        image: ImageLike,
        prompt: str,
        *,
        color: Color = "rgb",
        options: GenerationOptions | None = None,
        cancel: Event | None = None,
        on_text: OnText | None = None,
    ) -> Result:
        """Answer a prompt in the user's own words (VQA and other fine-tunes); else as `run`."""
        view = self.encode(image, options=options, color=color)
        return view.ask(prompt, cancel=cancel, on_text=on_text)

    # fmt: off
    @overload
    def encode(self, image: ImageLike, *, color: Color = "rgb",  # type: ignore[overload-overlap]
               options: GenerationOptions | None = None) -> EncodedImage: ...
    @overload
    def encode(self, image: Sequence[ImageLike], *, color: Color = "rgb",
               options: GenerationOptions | None = None) -> list[EncodedImage]: ...
    # fmt: on

    def encode(
        self,
        image: ImageLike | Sequence[ImageLike],
        *,
        color: Color = "rgb",
        options: GenerationOptions | None = None,
    ) -> EncodedImage | list[EncodedImage]:
        """Run the vision encoder once; the view answers any number of tasks about the picture.

        Several pictures are encoded in one run, and give a list. Arrays are in RGB order, or with
        `color` "bgr" in OpenCV's. `options` hold for questions that bring none of their own. Errors
        are those of `run`.
        """
        images, one_image = listed(image)
        self.generation_config(options)  # what cannot be generated should not cost an encoding
        check_color(color)
        if not images:
            return []
        prepared = prepare_images(
            images, self.bundle.size.image_size, self.image_options, color=color
        )
        views = self.encode_prepared(prepared, options)
        return views[0] if one_image else views

    def self_test(self) -> dict[str, float]:
        """Largest absolute error to the exporter's values, by output (`selftest.self_test`)."""
        with self._lock.held():
            return self_test(self.bundle, self.backend)

    def close(self) -> None:
        """Free the engine, after a running call; what is asked then raises a BackendError."""
        self._lock.close(self.backend.close)

    def __enter__(self) -> "Florence2":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def generation_config(self, options: GenerationOptions | None = None) -> GenerationConfig:
        """Options with all filled in that they leave to the checkpoint (`options.resolve`)."""
        self._lock.check_open()
        return resolve(options, self.bundle.generation, self.bundle.size)

    def encode_prompts(self, prompts: Sequence[Prompt]) -> tuple[Ints, Ints]:
        """Prompts as ids [B, T] and mask [B, image tokens + T]; see `processing.encode_prompts`."""
        pad = self.bundle.generation.pad_token_id
        return encode_prompts(prompts, self._tokenizer, self.bundle.size, pad=pad)

    def encode_prepared(
        self, prepared: PreparedImages, options: GenerationOptions | None = None
    ) -> list[EncodedImage]:
        """A view of each picture that `processing.prepare_images` has made ready, in one run."""
        timer, count = prepared.timer, len(prepared.pictures)
        with self._lock.held(), timer.stage(VISION):
            features = self.backend.encode_image(prepared.pixels)
        return [
            EncodedImage(
                engine=self._engine,
                picture=picture,
                features=features[i : i + 1],
                options=options,
                seconds=timer.share(count),
            )
            for i, picture in enumerate(prepared.pictures)
        ]

    def answer_each(
        self,
        views: Sequence[EncodedImage],
        prompts: Sequence[Sequence[Prompt]],
        *,
        cancel: Event | None = None,
        on_text: OnText | None = None,
    ) -> list[list[Result]]:
        """Answer several prompts, a row of them for each view; a batch is the views' first ones."""
        columns = [
            self.answer(views, column, views[0].options, cancel=cancel, on_text=on_text)
            for column in zip(*prompts, strict=True)
        ]
        return [list(row) for row in zip(*columns, strict=True)]

    def answer(
        self,
        views: Sequence[EncodedImage],
        prompts: Sequence[Prompt],
        options: GenerationOptions | None = None,
        *,
        cancel: Event | None = None,
        on_text: OnText | None = None,
    ) -> list[Result]:
        """Answer one prompt about each view, as one batch.

        A view may stand there several times. Each answer has its share of the batch's seconds.
        """
        self.generation_config(options)
        questions = [
            view.question(prompt, options=options, cancel=cancel, on_text=on_text)
            for view, prompt in zip(views, prompts, strict=True)
        ]
        results = self.answer_questions(questions, on_answer=raise_error)
        return [each for each in results if isinstance(each, Result)]

    def answer_questions(
        self, questions: Sequence[Question], *, on_answer: OnAnswer | None = None
    ) -> list[Answer]:
        """Answer questions about any pictures, each with options, an end and an error of its own.

        `on_answer` is called with the number of a question and its answer as soon as that is
        complete, by this thread, while others are still at work; it must not use the model.
        Questions of different `num_beams`, and more than `backend.max_batch`, take several batches.

        Raises:
            BackendError: the engine failed: what was not handed out yet has no answer.
        """
        return self._engine.answer(questions, on_answer)
