"""An MCP server over stdio: the model as tools that a language model can use well.

Few tools with plain names, boxes in pixels, and answers short enough to read. A picture is a path
on this machine, or base64. Nothing is written, and no address is fetched.
"""

import io
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from florence_edge import (
    Florence2,
    FlorenceEdgeError,
    MissingPackageError,
    Region,
    Result,
    __version__,
)
from florence_edge.extras import pip_install

from .failures import Failure
from .schema import picture_of

try:
    from mcp.server.mcpserver import Image, MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp.types import ToolAnnotations
except ImportError as error:
    raise MissingPackageError(
        f"--mcp needs the package mcp. Install it with: {pip_install('serve', 'mcp')}"
    ) from error

_INSTRUCTIONS = (
    "Looks at pictures on this machine with Florence-2: captions, objects, text, outlines. Boxes "
    "are [left, top, right, bottom] in pixels of the picture, from its top left corner. A score is "
    "how sure the model was, 0 to 1; it grounds almost anything that it is asked to find, so look "
    "at scores below 0.5 with care."
)
_PATH_CHARACTERS = 4096
_LOOKS = ToolAnnotations(read_only_hint=True, open_world_hint=False, idempotent_hint=True)

Picture = Annotated[
    str,
    Field(description="path of a picture on this machine, or the picture in base64"),
]
Box = Annotated[
    list[float],
    Field(min_length=4, max_length=4, description="left, top, right, bottom in pixels"),
]


class Found(BaseModel):
    """One thing in a picture."""

    label: str
    box: list[int] = Field(description="left, top, right, bottom in pixels")
    score: float
    outline: list[list[int]] | None = Field(
        None, description="x, y, x, y, ... of each ring of the outline, in pixels"
    )


class Regions(BaseModel):
    """What was found in a picture."""

    width: int
    height: int
    found: list[Found]


class Words(BaseModel):
    """What was said or read."""

    text: str
    score: float


class Eyes:
    """The tools, on one model."""

    def __init__(self, model: Florence2) -> None:
        self._model = model

    def describe(
        self,
        picture: Picture,
        detail: Annotated[
            Literal["sentence", "sentences", "paragraph"], Field(description="how much to say")
        ] = "paragraph",
    ) -> Words:
        """Describe a picture in words."""
        tasks = {
            "sentence": "CAPTION",
            "sentences": "DETAILED_CAPTION",
            "paragraph": "MORE_DETAILED_CAPTION",
        }
        return _words(self._ask(picture, tasks[detail]))

    def find_objects(
        self,
        picture: Picture,
        names: Annotated[
            list[str] | None,
            Field(description="what to look for, such as 'red car'; left out: all it knows"),
        ] = None,
    ) -> Regions:
        """Find objects in a picture: their names, boxes and scores."""
        if names:
            return _regions(self._ask(picture, "OPEN_VOCABULARY_DETECTION", "<and>".join(names)))
        return _regions(self._ask(picture, "OD"))

    def find_what_a_sentence_says(self, picture: Picture, sentence: str) -> Regions:
        """Find the things that a sentence about the picture speaks of."""
        return _regions(self._ask(picture, "CAPTION_TO_PHRASE_GROUNDING", sentence))

    def outline(
        self, picture: Picture, what: str | None = None, region: Box | None = None
    ) -> Regions:
        """Outline the one thing that a phrase names, or what a region holds."""
        if (what is None) == (region is None):
            raise ToolError("Give `what` or `region`, one of the two.")
        if what is not None:
            return _regions(self._ask(picture, "REFERRING_EXPRESSION_SEGMENTATION", what))
        return _regions(self._ask(picture, "REGION_TO_SEGMENTATION", region=region))

    def read_text(self, picture: Picture, region: Box | None = None) -> Words:
        """Read the text of a picture, or of a region of it."""
        if region is None:
            return _words(self._ask(picture, "OCR"))
        return _words(self._ask(picture, "REGION_TO_OCR", region=region))

    def find_text(self, picture: Picture) -> Regions:
        """Read each piece of text of a picture together with where it stands."""
        return _regions(self._ask(picture, "OCR_WITH_REGION"))

    def describe_region(self, picture: Picture, region: Box, short: bool = False) -> Words:
        """Say what a region of a picture shows; `short` gives its category alone."""
        task = "REGION_TO_CATEGORY" if short else "REGION_TO_DESCRIPTION"
        return _words(self._ask(picture, task, region=region))

    def show_objects(self, picture: Picture, names: list[str] | None = None) -> Image:
        """The picture with the objects found drawn on it, to look at."""
        task, text = ("OPEN_VOCABULARY_DETECTION", "<and>".join(names)) if names else ("OD", None)
        try:
            view = self._model.encode(_picture(picture))
            drawn = view.run(task, text).draw(view.image)
        except (FlorenceEdgeError, Failure) as error:
            raise ToolError(_reason(error)) from None
        buffer = io.BytesIO()
        drawn.save(buffer, "JPEG", quality=85)
        return Image(data=buffer.getvalue(), format="jpeg")

    def _ask(
        self, picture: str, task: str, text: str | None = None, *, region: Box | None = None
    ) -> Result:
        try:
            return self._model.run(_picture(picture), task, text, region=region)
        except (FlorenceEdgeError, Failure) as error:
            raise ToolError(_reason(error)) from None


def _picture(text: str) -> Path | bytes:
    """A path where there is such a file, else the bytes of base64."""
    if len(text) <= _PATH_CHARACTERS and not text.startswith("data:"):
        path = Path(text).expanduser()
        if "\0" not in text and (path.exists() or path.suffix):
            return path
    return picture_of(text)


def _reason(error: Exception) -> str:
    return error.message if isinstance(error, Failure) else str(error)


def _words(result: Result) -> Words:
    return Words(text=result.text, score=round(result.score, 3))


def _regions(result: Result) -> Regions:
    width, height = result.image_size
    return Regions(width=width, height=height, found=[_found(r) for r in result.regions])


def _found(region: Region) -> Found:
    outline = (
        None if region.shape == "box" else [[round(edge) for edge in ring] for ring in region.rings]
    )
    return Found(
        label=region.label,
        box=[round(edge) for edge in region.box],
        score=round(region.score, 3),
        outline=outline,
    )


def create_server(model: Florence2) -> MCPServer:
    """The MCP server of a loaded model; `run("stdio")` serves one client."""
    server: MCPServer = MCPServer("florence-edge", instructions=_INSTRUCTIONS, version=__version__)
    eyes = Eyes(model)
    for tool in (
        eyes.describe,
        eyes.find_objects,
        eyes.find_what_a_sentence_says,
        eyes.outline,
        eyes.read_text,
        eyes.find_text,
        eyes.describe_region,
        eyes.show_objects,
    ):
        server.tool(annotations=_LOOKS)(tool)
    return server
