"""What can be asked about a scene, and the answers in Florence-2's words: all 15 tasks.

`no_repeat_ngram_size` is 3 in Florence-2, so a model can never generate the same three tokens
twice. Answers are therefore worded as terse lists, and scenes whose answers would repeat three
tokens are not used.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from florence_edge.tasks import TASKS

from .layout import GRID, GridBox, GridPoint, Scene, SceneObject

_LOCATIONS = 1000
_TOKEN = re.compile(r"<[^>]+>|\w+|[^\w\s]")


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneQuestion:
    """A task put to a scene: the text that goes with the task's marker, and the expected answer."""

    task: str
    text: str
    answer: str

    @property
    def prompt(self) -> str:
        """The English prompt behind the marker."""
        return TASKS[self.task].prompt(self.text)


def ask(scene: Scene, task: str, random: np.random.Generator) -> SceneQuestion:
    """Put one of the 15 tasks to a scene; `random` chooses what tasks with an input ask for."""
    text, answer = _ASKERS[task](scene, random)
    return SceneQuestion(task=task, text=text, answer=answer)


def ask_everything(scene: Scene) -> list[SceneQuestion]:
    """One question of each task, always the same ones for a scene."""
    random = np.random.default_rng([scene.seed, 2])
    return [ask(scene, task, random) for task in TASKS]


def has_no_repeated_trigram(answer: str) -> bool:
    """Whether no three tokens (words, marks, locations) occur twice in an answer."""
    tokens = _TOKEN.findall(answer)
    triples = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    return len(set(triples)) == len(triples)


def no_answer_repeats_a_trigram(scene: Scene) -> bool:
    """Whether every answer, about the whole scene and each of its things, can be generated."""
    random = np.random.default_rng(0)
    whole = (ask(scene, task, random).answer for task in TASKS)
    polygons = (_polygon_tokens(thing.polygon) for thing in scene.objects)
    return all(has_no_repeated_trigram(answer) for answer in (*whole, *polygons))


def location_tokens(points: Iterable[GridPoint]) -> str:
    """Points of the grid as location tokens, x before y."""
    bins = (min(value * _LOCATIONS // GRID, _LOCATIONS - 1) for point in points for value in point)
    return "".join(f"<loc_{value}>" for value in bins)


def _box_tokens(box: GridBox) -> str:
    return location_tokens([(box[0], box[1]), (box[2], box[3])])


_polygon_tokens = location_tokens


def _listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _in_boxes(scene: Scene, describe: Callable[[SceneObject], str]) -> str:
    return "".join(describe(thing) + _box_tokens(thing.box) for thing in scene.objects)


_Asker = Callable[[Scene, np.random.Generator], tuple[str, str]]


def _caption(scene: Scene, random: np.random.Generator) -> tuple[str, str]:
    return "", _listed([thing.name for thing in scene.objects])


def _detailed_caption(scene: Scene, random: np.random.Generator) -> tuple[str, str]:
    things = _listed([thing.description for thing in scene.objects])
    return "", f"On a {scene.background} background, from left to right: {things}."


def _more_detailed_caption(scene: Scene, random: np.random.Generator) -> tuple[str, str]:
    count = len(scene.objects)
    things = _listed([thing.description for thing in scene.objects])
    words = _listed([f'"{word.text}"' for word in scene.words])
    reads = "The word reads" if len(scene.words) == 1 else "The words read"
    return "", (
        f"A {scene.background} picture with {count} {'object' if count == 1 else 'objects'}, "
        f"from left to right: {things}. {reads} {words}."
    )


def _ocr(scene: Scene, random: np.random.Generator) -> tuple[str, str]:
    return "", " ".join(word.text for word in scene.words)


def _ocr_with_region(scene: Scene, random: np.random.Generator) -> tuple[str, str]:
    return "", "".join(word.text + location_tokens(word.quad) for word in scene.words)


def _detection(scene: Scene, random: np.random.Generator) -> tuple[str, str]:
    return "", _in_boxes(scene, lambda thing: thing.shape)


def _dense_region_caption(scene: Scene, random: np.random.Generator) -> tuple[str, str]:
    return "", _in_boxes(scene, lambda thing: thing.description)


def _region_proposal(scene: Scene, random: np.random.Generator) -> tuple[str, str]:
    things: tuple[GridBox, ...] = tuple(thing.box for thing in scene.objects)
    return "", "".join(map(_box_tokens, sorted([*things, *(word.box for word in scene.words)])))


def _phrase_grounding(scene: Scene, random: np.random.Generator) -> tuple[str, str]:
    order = random.permutation(len(scene.objects))
    things = [scene.objects[index] for index in order]
    answer = "".join(thing.name + _box_tokens(thing.box) for thing in things)
    return _listed([f"a {thing.name}" for thing in things]), answer


def _open_vocabulary_detection(scene: Scene, random: np.random.Generator) -> tuple[str, str]:
    """One or two named objects, or all objects of one shape."""
    if random.random() < 0.5:
        shape = _any_object(scene, random).shape
        boxes = [_box_tokens(thing.box) for thing in scene.objects if thing.shape == shape]
        return shape, shape + "".join(boxes)
    count = min(len(scene.objects), int(random.integers(1, 3)))
    chosen = random.choice(len(scene.objects), size=count, replace=False)
    things = [scene.objects[index] for index in chosen]
    answer = "".join(thing.name + _box_tokens(thing.box) for thing in things)
    return "<and>".join(thing.name for thing in things), answer


def _referring_segmentation(scene: Scene, random: np.random.Generator) -> tuple[str, str]:
    thing = _any_object(scene, random)
    return thing.name, _polygon_tokens(thing.polygon)


def _region_to_segmentation(scene: Scene, random: np.random.Generator) -> tuple[str, str]:
    thing = _any_object(scene, random)
    return _box_tokens(thing.box), _polygon_tokens(thing.polygon)


def _region_to_category(scene: Scene, random: np.random.Generator) -> tuple[str, str]:
    thing = _any_object(scene, random)
    return _box_tokens(thing.box), thing.shape


def _region_to_description(scene: Scene, random: np.random.Generator) -> tuple[str, str]:
    thing = _any_object(scene, random)
    return _box_tokens(thing.box), thing.description


def _region_to_ocr(scene: Scene, random: np.random.Generator) -> tuple[str, str]:
    word = scene.words[int(random.integers(len(scene.words)))]
    return _box_tokens(word.box), word.text


def _any_object(scene: Scene, random: np.random.Generator) -> SceneObject:
    return scene.objects[int(random.integers(len(scene.objects)))]


_ASKERS: dict[str, _Asker] = {
    "CAPTION": _caption,
    "DETAILED_CAPTION": _detailed_caption,
    "MORE_DETAILED_CAPTION": _more_detailed_caption,
    "OCR": _ocr,
    "OCR_WITH_REGION": _ocr_with_region,
    "OD": _detection,
    "DENSE_REGION_CAPTION": _dense_region_caption,
    "REGION_PROPOSAL": _region_proposal,
    "CAPTION_TO_PHRASE_GROUNDING": _phrase_grounding,
    "OPEN_VOCABULARY_DETECTION": _open_vocabulary_detection,
    "REFERRING_EXPRESSION_SEGMENTATION": _referring_segmentation,
    "REGION_TO_SEGMENTATION": _region_to_segmentation,
    "REGION_TO_CATEGORY": _region_to_category,
    "REGION_TO_DESCRIPTION": _region_to_description,
    "REGION_TO_OCR": _region_to_ocr,
}
