"""A picture with its image features, and what it can be asked; `Florence2.encode` makes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event

from PIL import Image

from .backends.base import Features
from .counts import check_count
from .errors import RequestError
from .image import Picture, to_pil
from .options import GenerationOptions
from .questions import Engine, Question
from .regions import BoxLike
from .results.result import Result
from .tasks import Prompt, TaskLike, TaskName, find_task, free_prompt, prompt_for
from .tokenizer import OnText

_CAPTION_TASKS: dict[int, TaskName] = {
    1: "CAPTION",
    2: "DETAILED_CAPTION",
    3: "MORE_DETAILED_CAPTION",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)  # arrays have no one truth value
class EncodedImage:
    """A picture with its image features: ask it as many tasks as you like.

        view = model.encode("street.jpg")
        view.caption(detail=2).text
        view.segment(region=(10, 20, 200, 180)).draw(view.image)

    Every question takes `options` and `cancel` as `Florence2.run` does; `options` of the view hold
    for those that bring none of their own.
    """

    engine: Engine
    picture: Picture
    features: Features = field(repr=False)  # [1, image tokens, d_model]
    options: GenerationOptions | None
    seconds: Mapping[str, float]

    @property
    def image(self) -> Image.Image:
        """The picture as PIL's, in RGB; a frame on the GPU is copied from there as it is now."""
        return to_pil(self.picture)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.picture.size

    def question(
        self,
        task: TaskLike | Prompt,
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

    def _prompt(self, task: TaskLike, text: str | None, region: BoxLike | None) -> Prompt:
        return prompt_for(find_task(task, self.engine.bundle.tasks), text, region, self.size)

    def run(
        self,
        task: TaskLike,
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
        asked = self.question(
            task, text, region=region, options=options, cancel=cancel, on_text=on_text
        )
        return self.engine.answer_one(asked)

    def ask(
        self,
        prompt: str,
        *,
        options: GenerationOptions | None = None,
        cancel: Event | None = None,
        on_text: OnText | None = None,
    ) -> Result:
        """Answer a prompt in the user's own words (VQA and other fine-tunes)."""
        asked = self.question(free_prompt(prompt), options=options, cancel=cancel, on_text=on_text)
        return self.engine.answer_one(asked)

    def caption(
        self,
        detail: int = 1,
        *,
        options: GenerationOptions | None = None,
        cancel: Event | None = None,
    ) -> Result:
        """Describe the picture: 1 in a sentence, 2 in detail, 3 in a paragraph."""
        check_count("detail", detail, most=len(_CAPTION_TASKS))
        return self.run(_CAPTION_TASKS[detail], options=options, cancel=cancel)

    def detect(
        self,
        phrases: str | Sequence[str] | None = None,
        *,
        options: GenerationOptions | None = None,
        cancel: Event | None = None,
    ) -> Result:
        """Find objects: all that the model knows, or those that `phrases` name."""
        if phrases is None:
            return self.run("OD", options=options, cancel=cancel)
        named = [phrases] if isinstance(phrases, str) else list(phrases)
        if not named:
            raise RequestError("detect got no phrase. Name what to find, or leave phrases out.")
        if not all(isinstance(phrase, str) and phrase.strip() for phrase in named):
            raise RequestError(f"detect got {named!r:.80}; each phrase must be a text.")
        text = "<and>".join(named)
        return self.run("OPEN_VOCABULARY_DETECTION", text, options=options, cancel=cancel)

    def ground(
        self,
        caption: str,
        *,
        options: GenerationOptions | None = None,
        cancel: Event | None = None,
    ) -> Result:
        """Find the things that a caption speaks of."""
        return self.run("CAPTION_TO_PHRASE_GROUNDING", caption, options=options, cancel=cancel)

    def segment(
        self,
        what: str | BoxLike | None = None,
        *,
        region: BoxLike | None = None,
        options: GenerationOptions | None = None,
        cancel: Event | None = None,
    ) -> Result:
        """Outline what a phrase refers to, or what lies in a region."""
        if (what is None) == (region is None):
            raise RequestError("segment() needs a phrase or a region, one of the two.")
        if isinstance(what, str):
            task: TaskName = "REFERRING_EXPRESSION_SEGMENTATION"
            return self.run(task, what, options=options, cancel=cancel)
        asked = region if what is None else what
        return self.run("REGION_TO_SEGMENTATION", region=asked, options=options, cancel=cancel)

    def ocr(
        self,
        regions: bool = False,
        *,
        options: GenerationOptions | None = None,
        cancel: Event | None = None,
    ) -> Result:
        """Read the text of the whole picture; with `regions`, where each piece of it stands."""
        return self.run("OCR_WITH_REGION" if regions else "OCR", options=options, cancel=cancel)

    def read(
        self,
        region: BoxLike,
        *,
        options: GenerationOptions | None = None,
        cancel: Event | None = None,
    ) -> Result:
        """Read the text in a region."""
        return self.run("REGION_TO_OCR", region=region, options=options, cancel=cancel)

    def describe(
        self,
        region: BoxLike,
        *,
        options: GenerationOptions | None = None,
        cancel: Event | None = None,
    ) -> Result:
        """Describe what lies in a region."""
        return self.run("REGION_TO_DESCRIPTION", region=region, options=options, cancel=cancel)

    def categorize(
        self,
        region: BoxLike,
        *,
        options: GenerationOptions | None = None,
        cancel: Event | None = None,
    ) -> Result:
        """Name the category of what lies in a region."""
        return self.run("REGION_TO_CATEGORY", region=region, options=options, cancel=cancel)

    def propose(
        self, *, options: GenerationOptions | None = None, cancel: Event | None = None
    ) -> Result:
        """Propose regions that hold something, without naming it."""
        return self.run("REGION_PROPOSAL", options=options, cancel=cancel)

    def dense_captions(
        self, *, options: GenerationOptions | None = None, cancel: Event | None = None
    ) -> Result:
        """Find objects and describe each."""
        return self.run("DENSE_REGION_CAPTION", options=options, cancel=cancel)
