"""A picture that the model has looked at: ask it as many tasks as you like.

view = model.look("street.jpg")
view.caption(detail=2).text
view.detect(["traffic light", "bicycle"]).regions
view.segment(region=(10, 20, 200, 180)).draw(view.image)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING

from PIL import Image

from .answers.regions import Convention
from .answers.result import Result
from .backends.base import Features
from .cuda.frame import Frame
from .errors import RequestError
from .options import GenerationOptions
from .pictures import Picture
from .questions import Question, free_question, question
from .tasks import Task

if TYPE_CHECKING:
    from .model import Florence2

Box = Sequence[float]  # left, top, right, bottom in pixels of the picture

_CAPTION_TASKS = {1: "CAPTION", 2: "DETAILED_CAPTION", 3: "MORE_DETAILED_CAPTION"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)  # arrays have no one truth value
class View:
    """A picture with its image features; made by `Florence2.look`.

    `options` hold for every question that brings none of its own, `convention` for every answer.
    """

    model: "Florence2"
    picture: Picture
    features: Features  # [1, image tokens, d_model]
    options: GenerationOptions | None
    convention: Convention
    seconds: Mapping[str, float]

    @property
    def image(self) -> Image.Image:
        """The picture as PIL's; a frame on the GPU is copied from there as it is now."""
        return self.picture.to_image() if isinstance(self.picture, Frame) else self.picture

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.picture.size

    def run(
        self,
        task: str | Task,
        text: str | None = None,
        *,
        region: Box | None = None,
        options: GenerationOptions | None = None,
        cancel: Event | None = None,
    ) -> Result:
        """Answer one of the 15 tasks.

        Args:
            task: `OD` or `<OD>`.
            text: what the task takes beside the picture; region tasks take four `<loc_n>`.
            region: in place of those, left, top, right, bottom in pixels.
            options: how to generate; None means the view's options.
            cancel: once another thread sets it, the answer is what is complete by then, and its
                status is `truncated`, as with `GenerationOptions.max_time`.

        Raises:
            RequestError: the task does not exist, or text, region or options do not fit it.
        """
        return self._ask(question(task, text, region, self.size), options, cancel)

    def ask(
        self,
        prompt: str,
        *,
        options: GenerationOptions | None = None,
        cancel: Event | None = None,
    ) -> Result:
        """Answer a prompt in the user's own words (VQA and other fine-tunes)."""
        return self._ask(free_question(prompt), options, cancel)

    def caption(self, detail: int = 1) -> Result:
        """Describe the picture: 1 in a sentence, 2 in detail, 3 in a paragraph."""
        if detail not in _CAPTION_TASKS:
            raise RequestError(f"detail is {detail}; it must be 1, 2 or 3.")
        return self.run(_CAPTION_TASKS[detail])

    def detect(self, phrases: str | Sequence[str] | None = None) -> Result:
        """Find objects: all that the model knows, or those that `phrases` name."""
        if phrases is None:
            return self.run("OD")
        text = phrases if isinstance(phrases, str) else "<and>".join(phrases)
        return self.run("OPEN_VOCABULARY_DETECTION", text)

    def ground(self, caption: str) -> Result:
        """Find the things that a caption speaks of."""
        return self.run("CAPTION_TO_PHRASE_GROUNDING", caption)

    def segment(self, what: str | Box | None = None, *, region: Box | None = None) -> Result:
        """Outline what a phrase refers to, or what lies in a region."""
        if (what is None) == (region is None):
            raise RequestError("segment() needs a phrase or a region, one of the two.")
        if isinstance(what, str):
            return self.run("REFERRING_EXPRESSION_SEGMENTATION", what)
        return self.run("REGION_TO_SEGMENTATION", region=region if what is None else what)

    def ocr(self, regions: bool = False) -> Result:
        """Read the text of the whole picture; with `regions`, where each piece of it stands."""
        return self.run("OCR_WITH_REGION" if regions else "OCR")

    def read(self, region: Box) -> Result:
        """Read the text in a region."""
        return self.run("REGION_TO_OCR", region=region)

    def describe(self, region: Box) -> Result:
        """Describe what lies in a region."""
        return self.run("REGION_TO_DESCRIPTION", region=region)

    def categorize(self, region: Box) -> Result:
        """Name the category of what lies in a region."""
        return self.run("REGION_TO_CATEGORY", region=region)

    def propose(self) -> Result:
        """Propose regions that hold something, without naming it."""
        return self.run("REGION_PROPOSAL")

    def dense_captions(self) -> Result:
        """Find objects and describe each."""
        return self.run("DENSE_REGION_CAPTION")

    def _ask(
        self, asked: Question, options: GenerationOptions | None, cancel: Event | None
    ) -> Result:
        (result,) = self.model.answer([self], [asked], options or self.options, cancel)
        return result
