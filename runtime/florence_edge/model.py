"""The model: a bundle on an engine, and what it answers about pictures.

    with Florence2.load("bundle", device="cuda:0") as model:
        model.run("street.jpg", "OD")                one picture, one task
        model.run(["a.jpg", "b.jpg"], "OD")          several pictures, as one batch
        model.run("street.jpg", ["OD", "CAPTION"])   several tasks, one encoding
        view = model.encode("street.jpg")            what `EncodedImage` is asked then

Many pictures: `batch.run_many`. A camera, a stream or a video: `video.watch.watch`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import overload

from PIL import Image

from .backends.base import Backend, Features
from .backends.open import open_engine, within_engine
from .bundle import TOKENIZER, Bundle
from .devices import Device, EngineSettings
from .engine_lock import EngineLock
from .errors import RequestError
from .image import ImageLike, Picture, to_pil
from .image_file import MAX_PIXELS, DeepRange, ImageOptions
from .options import GenerationConfig, GenerationOptions, resolve
from .processing import PreparedImages, encode_prompts, prepare_images
from .questions import Answer, Engine, OnAnswer, Question, raise_error
from .regions import BoxLike, Convention, check_convention
from .results.result import VISION, Result
from .search import Ints
from .selftest import self_test
from .tasks import (
    Prompt,
    RegionEach,
    Task,
    TaskList,
    TextEach,
    find_task,
    free_prompt,
    listed,
    prompt_for,
    requests_for,
    with_own,
)
from .tokenizer import OnText, Tokenizer

_CAPTION_TASKS = {1: "CAPTION", 2: "DETAILED_CAPTION", 3: "MORE_DETAILED_CAPTION"}


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
        self._engine = Engine(
            bundle=bundle, backend=backend, tokenizer=tokenizer, convention=convention
        )
        self._lock = EngineLock()

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
    def run(self, image: ImageLike, task: str | Task,  # type: ignore[overload-overlap]
            text: TextEach = None, *, region: RegionEach = None,
            options: GenerationOptions | None = None, cancel: Event | None = None,
            on_text: OnText | None = None) -> Result: ...
    @overload
    def run(self, image: ImageLike, task: "TaskList",  # type: ignore[overload-overlap]
            text: TextEach = None, *, region: RegionEach = None,
            options: GenerationOptions | None = None,
            cancel: Event | None = None) -> list[Result]: ...
    @overload
    def run(self, image: Sequence[ImageLike], task: str | Task, text: TextEach = None, *,
            region: RegionEach = None, options: GenerationOptions | None = None,
            cancel: Event | None = None) -> list[Result]: ...
    @overload
    def run(self, image: Sequence[ImageLike], task: "TaskList", text: TextEach = None, *,
            region: RegionEach = None, options: GenerationOptions | None = None,
            cancel: Event | None = None) -> list[list[Result]]: ...
    # fmt: on

    def run(  # noqa: PLR0913 - the door; all but three are named by the caller
        self,
        image: ImageLike | Sequence[ImageLike],
        task: "str | Task | TaskList",
        text: TextEach = None,
        *,
        region: RegionEach = None,
        options: GenerationOptions | None = None,
        cancel: Event | None = None,
        on_text: OnText | None = None,
    ) -> Result | list[Result] | list[list[Result]]:
        """Answer one task or several about one picture or several.

        Args:
            image: a path, bytes, an open file, a PIL image or an HxWx3 uint8 array in RGB order;
                on the GPU, an array with `__cuda_array_interface__` (PyCUDA, CuPy, torch, numba).
                A list of them is one batch, and so is an NxHxWx3 array or what a generator gives;
                each answer is what the picture gets alone.
            task: one of the 15, `OD` or `<OD>`; several share one encoding.
            text: what the task takes beside the picture; region tasks take four `<loc_n>`. One
                for all pictures, or a list with one for each; for the tasks that take one.
            region: left, top, right, bottom in pixels, or `RelativeBox`; one, or one for each.
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
        views, _ = listed(self.encode(images, options=options))
        prompts = [each.prompts(view.size) for each, view in zip(requests, views, strict=True)]
        rows = self.answer_each(views, prompts, cancel=cancel, on_text=on_text)
        results = [row[0] for row in rows] if one_task else rows
        return results[0] if one_image else results

    def ask(
        self,
        image: ImageLike,
        prompt: str,
        *,
        options: GenerationOptions | None = None,
        cancel: Event | None = None,
        on_text: OnText | None = None,
    ) -> Result:
        """Answer a prompt in the user's own words (VQA and other fine-tunes)."""
        return self.encode(image, options=options).ask(prompt, cancel=cancel, on_text=on_text)

    # fmt: off
    @overload
    def encode(self, image: ImageLike, *,  # type: ignore[overload-overlap]
               options: GenerationOptions | None = None) -> "EncodedImage": ...
    @overload
    def encode(self, image: Sequence[ImageLike], *,
               options: GenerationOptions | None = None) -> "list[EncodedImage]": ...
    # fmt: on

    def encode(
        self, image: ImageLike | Sequence[ImageLike], *, options: GenerationOptions | None = None
    ) -> "EncodedImage | list[EncodedImage]":
        """Run the vision encoder once; the view answers any number of tasks about the picture.

        Several pictures are encoded in one run, and give a list. `options` hold for questions that
        bring none of their own. Errors are those of `run`.
        """
        images, one_image = listed(image)
        self.generation_config(options)  # what cannot be generated should not cost an encoding
        if not images:
            return []
        side = self.bundle.size.image_size
        views = self.encode_prepared(prepare_images(images, side, self.image_options), options)
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
    ) -> "list[EncodedImage]":
        """A view of each picture that `processing.prepare_images` has made ready, in one run."""
        timer, count = prepared.timer, len(prepared.pictures)
        with self._lock.held(), timer.stage(VISION):
            features = self.backend.encode_image(prepared.pixels)
        return [
            EncodedImage(
                model=self,
                picture=picture,
                features=features[i : i + 1],
                options=options,
                seconds=timer.share(count),
            )
            for i, picture in enumerate(prepared.pictures)
        ]

    def answer_each(
        self,
        views: "Sequence[EncodedImage]",
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
        views: "Sequence[EncodedImage]",
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
        with self._lock.held():
            return self._engine.answer(questions, on_answer)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)  # arrays have no one truth value
class EncodedImage:
    """A picture with its image features: ask it as many tasks as you like.

        view = model.encode("street.jpg")
        view.caption(detail=2).text
        view.segment(region=(10, 20, 200, 180)).draw(view.image)

    `options` hold for every question that brings none of its own.
    """

    model: Florence2
    picture: Picture
    features: Features = field(repr=False)  # [1, image tokens, d_model]
    options: GenerationOptions | None
    seconds: Mapping[str, float]

    @property
    def image(self) -> Image.Image:
        """The picture as PIL's; a frame on the GPU is copied from there as it is now."""
        return to_pil(self.picture)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.picture.size

    def question(
        self,
        task: str | Task | Prompt,
        text: str | None = None,
        *,
        region: BoxLike | None = None,
        options: GenerationOptions | None = None,
        cancel: Event | None = None,
        on_text: OnText | None = None,
    ) -> Question:
        """A question for `Florence2.answer_questions`; the arguments are those of `run`.

        Raises:
            RequestError: the task does not exist, or text or region do not fit it.
        """
        return Question(
            features=self.features,
            image_size=self.size,
            prompt=task if isinstance(task, Prompt) else self._prompt(task, text, region),
            options=options or self.options,
            cancel=cancel,
            on_text=on_text,
            seconds=self.seconds,
        )

    def run(
        self,
        task: str | Task,
        text: str | None = None,
        *,
        region: BoxLike | None = None,
        options: GenerationOptions | None = None,
        cancel: Event | None = None,
        on_text: OnText | None = None,
    ) -> Result:
        """Answer one of the 15 tasks; the arguments are those of `Florence2.run`.

        Raises:
            RequestError: the task does not exist, or text, region or options do not fit it.
        """
        prompt, chosen = self._prompt(task, text, region), options or self.options
        return self.model.answer([self], [prompt], chosen, cancel=cancel, on_text=on_text)[0]

    def _prompt(self, task: str | Task, text: str | None, region: BoxLike | None) -> Prompt:
        return prompt_for(find_task(task, self.model.bundle.tasks), text, region, self.size)

    def ask(
        self,
        prompt: str,
        *,
        options: GenerationOptions | None = None,
        cancel: Event | None = None,
        on_text: OnText | None = None,
    ) -> Result:
        """Answer a prompt in the user's own words (VQA and other fine-tunes)."""
        asked, chosen = free_prompt(prompt), options or self.options
        return self.model.answer([self], [asked], chosen, cancel=cancel, on_text=on_text)[0]

    def caption(self, detail: int = 1) -> Result:
        """Describe the picture: 1 in a sentence, 2 in detail, 3 in a paragraph."""
        if detail not in _CAPTION_TASKS:
            raise RequestError(f"detail is {detail}; it must be 1, 2 or 3.")
        return self.run(_CAPTION_TASKS[detail])

    def detect(self, phrases: str | Sequence[str] | None = None) -> Result:
        """Find objects: all that the model knows, or those that `phrases` name."""
        if phrases is None:
            return self.run("OD")
        if not phrases:
            raise RequestError("detect got no phrase. Name what to find, or leave phrases out.")
        text = phrases if isinstance(phrases, str) else "<and>".join(phrases)
        return self.run("OPEN_VOCABULARY_DETECTION", text)

    def ground(self, caption: str) -> Result:
        """Find the things that a caption speaks of."""
        return self.run("CAPTION_TO_PHRASE_GROUNDING", caption)

    def segment(
        self, what: str | BoxLike | None = None, *, region: BoxLike | None = None
    ) -> Result:
        """Outline what a phrase refers to, or what lies in a region."""
        if (what is None) == (region is None):
            raise RequestError("segment() needs a phrase or a region, one of the two.")
        if isinstance(what, str):
            return self.run("REFERRING_EXPRESSION_SEGMENTATION", what)
        return self.run("REGION_TO_SEGMENTATION", region=region if what is None else what)

    def ocr(self, regions: bool = False) -> Result:
        """Read the text of the whole picture; with `regions`, where each piece of it stands."""
        return self.run("OCR_WITH_REGION" if regions else "OCR")

    def read(self, region: BoxLike) -> Result:
        """Read the text in a region."""
        return self.run("REGION_TO_OCR", region=region)

    def describe(self, region: BoxLike) -> Result:
        """Describe what lies in a region."""
        return self.run("REGION_TO_DESCRIPTION", region=region)

    def categorize(self, region: BoxLike) -> Result:
        """Name the category of what lies in a region."""
        return self.run("REGION_TO_CATEGORY", region=region)

    def propose(self) -> Result:
        """Propose regions that hold something, without naming it."""
        return self.run("REGION_PROPOSAL")

    def dense_captions(self) -> Result:
        """Find objects and describe each."""
        return self.run("DENSE_REGION_CAPTION")
