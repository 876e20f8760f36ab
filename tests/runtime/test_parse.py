import itertools
import json
import re
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from florence_edge.errors import RequestError
from florence_edge.regions import Convention
from florence_edge.results.parse import (
    NOT_GROUNDED,
    find_regions,
    parse,
    plain_text,
    removed_markers,
)
from florence_edge.tasks import TASKS, AnswerKind, find_task

from ..helpers.assets import DATA, Asset
from ..helpers.thorough import examples

CONVENTIONS: tuple[Convention, ...] = get_args(Convention)
ONE_TASK_OF_EACH_KIND = list({task.answer: task.token for task in TASKS.values()}.values())
THOUSAND = (1000, 1000)  # native coordinates equal the bins, Microsoft's are half a bin further

Answer = dict[str, Any]
Reference = Callable[[str, str, tuple[int, int]], Answer]


def located(*bins: int) -> str:
    return "".join(f"<loc_{number}>" for number in bins)


# Texts as a model writes them, and as it would at its worst: assembled from what the grammar
# knows, what it nearly knows, and noise.

_locations = st.lists(st.integers(0, 999), min_size=1, max_size=11).map(lambda b: located(*b))
_rings = st.lists(_locations, min_size=1, max_size=3).map("<sep>".join)
_things = _rings.map(lambda rings: f"<poly>{rings}</poly>")
_words = st.sampled_from(
    ["car", "a red car", "the image", "it", "It", "a set", "é", "中新中", "naïve café", "STOP",
     "dog\n", "\ncat", "two\nlines", "  x  ", "A & B", "0", "loc_12>dog", "\u2028", "\x1c"]
)  # fmt: skip
_tags = st.sampled_from(
    ["<s>", "</s>", "<pad>", "<sep>", "<poly>", "</poly>", "<and>", "<ground>", "<obj>", "<od>",
     "</od>", "<box>", "<image>", "<", ">", "\n", " ", "<po<s>ly>", "<</s>s>", "<p<pad>ad>"]
)  # fmt: skip
_odd_locations = st.sampled_from(
    ["<loc_1000>", "<loc_12345>", "<loc_999999>", "<loc_007>", "<loc_٣>", "<loc_>", "<loc_1",
     "loc_5>", "<loc_-1>", "<LOC_1>"]
)  # fmt: skip
_pieces = [_locations] * 2 + [_words] * 2 + [_tags] * 2 + [_rings, _things, _odd_locations]
_assembled = st.lists(st.one_of(*_pieces, st.text(max_size=4)), max_size=14).map("".join)
_truncated = st.builds(lambda text, cut: text[: len(text) - cut], _assembled, st.integers(1, 12))
texts = st.one_of(_assembled, _truncated, st.text(max_size=20))
sizes = st.tuples(st.integers(1, 5000), st.integers(1, 5000))


@pytest.fixture(scope="module")
def transformers_says() -> Reference:
    """The reference's post-processing, without the models and files that usually come with it."""
    pytest.importorskip("torch")
    module = pytest.importorskip("transformers.models.florence2.processing_florence2")
    kinds: dict[str, dict[str, Any]] = {kind.value: {} for kind in AnswerKind}
    kinds["phrase_grounding"]["banned_grounding_tokens"] = sorted(NOT_GROUNDED)
    tokenizer = SimpleNamespace(all_special_tokens=[], image_token="<image>", image_token_id=51289)
    with pytest.MonkeyPatch.context() as patch:
        # The base class insists on real image processors and tokenizers; parsing needs neither.
        patch.setattr(module.ProcessorMixin, "__init__", lambda *_, **__: None)
        processor = module.Florence2Processor(
            SimpleNamespace(image_seq_length=577), tokenizer, post_processor_config=kinds
        )

    def says(task: str, text: str, image_size: tuple[int, int]) -> Answer:
        answer: Answer = processor.post_process_generation(
            text=text, task=task, image_size=image_size
        )
        return answer

    return says


@pytest.mark.parametrize("task", ONE_TASK_OF_EACH_KIND)
@settings(max_examples=examples(800), derandomize=True, deadline=None, database=None)
@given(text=texts, image_size=sizes)
@example(text="</s><s><s><s>car<loc_1><loc_2><loc_3><loc_4></s><pad>", image_size=(640, 480))
def test_any_text_is_read_as_transformers_reads_it(
    transformers_says: Reference, task: str, text: str, image_size: tuple[int, int]
) -> None:
    ours = parse(task, text, image_size=image_size)
    theirs = transformers_says(task, text, image_size)
    assert ours == theirs
    assert json.dumps(ours) == json.dumps(theirs)  # 1 and 1.0 are equal, but not the same


@pytest.mark.parametrize("task", [*TASKS, "<VQA>"])
@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(text=texts)
def test_each_task_has_the_shape_that_transformers_gives_it(
    transformers_says: Reference, task: str, text: str
) -> None:
    token = find_task(task).token if task in TASKS else task
    ours = parse(task, text, image_size=THOUSAND)
    assert ours == transformers_says(token, text, THOUSAND)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_recorded_answers_are_read_as_both_originals_read_them(convention: Convention) -> None:
    recorded = json.loads((DATA / "golden" / "postprocess.json").read_text(encoding="utf-8"))
    assert len(recorded) >= 28
    for record in recorded:
        size = tuple(record["image_size"])
        ours = parse(record["task"], record["text"], image_size=size, convention=convention)
        assert json.dumps(ours) == json.dumps(record[convention]), record["id"]


def test_grounding_leaves_out_the_phrases_of_the_published_configuration(asset: Asset) -> None:
    published = asset("florence-2/native-processor/processor_config.json")
    settings = json.loads(published.read_text())["post_processor_config"]
    assert set(settings["phrase_grounding"]["banned_grounding_tokens"]) == NOT_GROUNDED


@pytest.mark.parametrize("kind", [kind for kind in AnswerKind if "box" in kind.value])
@settings(max_examples=examples(200), derandomize=True, deadline=None, database=None)
@given(text=texts, image_size=sizes)
def test_the_conventions_agree_on_boxes_but_for_the_fraction(
    kind: AnswerKind, text: str, image_size: tuple[int, int]
) -> None:
    native, microsoft = (
        find_regions(kind, text, image_size=image_size, convention=each) for each in CONVENTIONS
    )
    if "<poly>" in text:
        return
    assert [region.label for region in native] == [region.label for region in microsoft]
    for whole, fractional in zip(native, microsoft, strict=True):
        assert whole.rings == tuple(tuple(map(int, ring)) for ring in fractional.rings)


@pytest.mark.parametrize("kind", list(AnswerKind))
@pytest.mark.parametrize("convention", CONVENTIONS)
@settings(max_examples=examples(100), derandomize=True, deadline=None, database=None)
@given(text=texts)
def test_spans_point_at_the_characters_that_made_the_region(
    kind: AnswerKind, convention: Convention, text: str
) -> None:
    def without_markers(span: tuple[int, int]) -> str:
        cut = text[slice(*span)]
        for marker in removed_markers(kind, convention):
            cut = cut.replace(marker, "")
        return cut

    for region in find_regions(kind, text, image_size=THOUSAND, convention=convention):
        label = without_markers(region.label_span)
        if region.shape == "box":
            label = label.encode("ascii", "ignore").decode()
        assert label == region.label
        for ring, span in zip(region.rings, region.location_spans, strict=True):
            bins = [int(number) for number in re.findall(r"<loc_(\d+)>", without_markers(span))]
            assert [int(coordinate) for coordinate in ring] == bins[: len(ring)]


# Long numbers: the originals hold them in int64, and turn native coordinates into int32.

_digits = st.one_of(
    st.integers(9, 19).flatmap(lambda n: st.text("0123456789", min_size=n, max_size=n)),
    st.sampled_from(
        [
            *("2147483647", "2147483648", str(2**53 + 1), str(2**63 - 1), "9" * 18),
            *("0" * 40 + "7", "33554431", "4294967295", "999999999", "12345678901"),
        ]
    ),
    st.integers(0, 999).map(str),
)


@pytest.mark.parametrize("task", ONE_TASK_OF_EACH_KIND)
@settings(max_examples=examples(300), derandomize=True, deadline=None, database=None)
@given(numbers=st.lists(_digits, min_size=4, max_size=9), image_size=sizes)
def test_numbers_of_up_to_nineteen_digits_are_read_as_transformers_reads_them(
    transformers_says: Reference, task: str, numbers: list[str], image_size: tuple[int, int]
) -> None:
    if max(map(int, numbers)) >= 2**63:
        return
    locations = "".join(f"<loc_{number}>" for number in numbers)
    for text in (f"car{locations}", f"car<poly>{locations}<sep>{locations}</poly>"):
        ours = parse(task, text, image_size=image_size)
        assert ours == transformers_says(task, text, image_size)


def test_long_numbers_by_hand() -> None:
    text = "car<loc_999999999><loc_9999999999><loc_1><loc_2>"
    assert parse("OD", text, image_size=(1000, 1000))["<OD>"]["bboxes"] == [
        [1_000_000_000, -(2**31), 1, 2]
    ]
    microsoft = parse("OD", text, image_size=(1000, 1000), convention="microsoft")
    assert microsoft["<OD>"]["bboxes"] == [[1e9, 1e10, 1.5, 2.5]]


@pytest.mark.parametrize("kind", list(AnswerKind))
@pytest.mark.parametrize("digits", [str(2**63), "9" * 30, "9" * 5000])
def test_regions_with_numbers_too_long_for_the_originals_are_not_found(
    kind: AnswerKind, digits: str
) -> None:
    """They fail on the whole text; a region beside is still read here."""
    text = "car" + f"<loc_{digits}>" * 8
    assert find_regions(kind, text, image_size=THOUSAND, convention="native") == ()
    beside = text + "dog" + located(*range(8)) * (kind is not AnswerKind.PURE_TEXT)
    found = find_regions(kind, beside, image_size=THOUSAND, convention="native")
    labels = {region.label for region in found}
    named = kind not in (AnswerKind.PURE_TEXT, AnswerKind.BOXES, AnswerKind.POLYGONS)
    assert labels == ({"dog"} if named else {""} if found else set())


def test_a_number_that_is_left_over_may_have_any_length(transformers_says: Reference) -> None:
    text = "car" + located(1, 2, 3, 4) + f"<loc_{'9' * 30}>"
    assert parse("OD", text, image_size=THOUSAND) == transformers_says("<OD>", text, THOUSAND)
    assert parse("OD", text, image_size=THOUSAND)["<OD>"]["bboxes"] == [[1, 2, 3, 4]]


# Adversarial alphabets: whatever the regular expressions of the originals find, and no less fast.

ALPHABETS = {
    "brackets": ["<", ">", "a"],
    "locations": ["<loc_1>", "<loc_22>", "<loc_", ">", "<", "a", "\n"],
    "quads": ["<loc_1>" * 7, "<loc_1>" * 8, "<loc_1>", "\n", "a", ">"],
    "boxes": ["<loc_1>" * 3, "<loc_1>" * 4, "a", " ", "\n", "<", "loc_1>"],
    "polygons": ["<poly>", "</poly>", "<sep>", "<loc_1>", "<loc_2>", "a"],
    "open": ["<poly>", "<loc_1>", "<sep>", "<poly><poly>", "\n"],
    "markers": ["<s>", "</s>", "<pad>", "<", "s>", "/s>", "a", "<loc_1>"],
    "spaces": [" ", "\n", "\t", "a", "<loc_1>" * 4, "<loc_1>" * 8],
    "digits": ["<loc_", "1", "2", ">", "loc_", "<"],
}


_texts_of_few_letters = st.sampled_from(list(ALPHABETS.values())).flatmap(
    lambda letters: st.lists(st.sampled_from(letters), max_size=30).map("".join)
)


@pytest.mark.parametrize("task", ONE_TASK_OF_EACH_KIND)
@settings(max_examples=examples(500), derandomize=True, deadline=None, database=None)
@given(text=_texts_of_few_letters)
def test_texts_of_few_letters_are_read_as_transformers_reads_them(
    transformers_says: Reference, task: str, text: str
) -> None:
    ours = parse(task, text, image_size=THOUSAND)
    assert ours == transformers_says(task, text, THOUSAND)


# Where Microsoft's own rules differ: these are its expressions.

_MICROSOFT_QUADS = re.compile("(.+?)" + r"<loc_(\d+)>" * 8)
_PARTS = r"(?:<loc_\d+>|<sep>|<poly>|</poly>){4,}"
_MICROSOFT_PHRASE = r"^\s*(.*?)(?=<od>|</od>|<box>|</box>|<bbox>|</bbox>|<loc_|<poly>)"


def _microsoft_polygons(text: str, chunks: str) -> list[tuple[str, list[list[float]]]]:
    found = []
    for marker in ("<s>", "</s>", "<pad>"):
        text = text.replace(marker, "")
    for chunk in re.findall(chunks, text):
        phrase = re.search(_MICROSOFT_PHRASE, re.sub(r"^loc_\d+>", "", chunk, count=1))
        if not phrase:
            continue
        things = [chunk]
        if "<poly>" in chunk and "</poly>" in chunk:
            things = re.findall("<poly>(.*?)</poly>", chunk)
        for thing in things:
            rings = []
            for ring in re.findall(r"((?:<loc_\d+>)+)(?:<sep>|$)", thing):
                bins = [int(number) + 0.5 for number in re.findall(r"<loc_(\d+)>", ring)]
                rings.append(bins[: len(bins) // 2 * 2])
            if rings:
                found.append((phrase.group().strip(), rings))
    return found


@settings(max_examples=examples(800), derandomize=True, deadline=None, database=None)
@given(text=_texts_of_few_letters)
def test_texts_of_few_letters_are_read_as_microsofts_expressions_read_them(text: str) -> None:
    found = microsoft("OCR_WITH_REGION", text)
    expected = _MICROSOFT_QUADS.findall(text.replace("<s>", ""))
    assert found["labels"] == [label for label, *_ in expected]
    assert found["quad_boxes"] == [[int(b) + 0.5 for b in bins] for _, *bins in expected]
    bare = microsoft("REGION_TO_SEGMENTATION", text)
    polygons = _microsoft_polygons(text, _PARTS)
    assert list(zip(bare["labels"], bare["polygons"], strict=True)) == polygons
    if "<poly>" in text:
        labelled = microsoft("OPEN_VOCABULARY_DETECTION", text)
        polygons = _microsoft_polygons(text, "[^<]+" + _PARTS)
        pairs = zip(labelled["polygons_labels"], labelled["polygons"], strict=True)
        assert list(pairs) == polygons


REPEATED = [
    *(">", "<", " ", "\n", "a", "<loc_", "<loc_1", "1", "<poly>", "</poly>", "<sep>", "<s>"),
    *("<loc_1>", "<loc_1>" * 7 + ">", "<loc_1>a", "\n" + "<loc_1>" * 8, "a>" * 9 + "\n"),
    *(" " * 9 + "a\n", "a" + "<loc_1>" * 4, "<poly><loc_1><loc_2><sep></poly>", "<s></s>"),
    *("<poly>" + "<loc_1>" * 5, "<loc_1>" * 5 + "<sep>", "<<loc_1>", "<s<s>>", "word "),
]
ENDS = ["", "x" + "<loc_1>" * 8, "x\n<poly><loc_1><loc_2></poly>"]


@pytest.mark.parametrize("task", ONE_TASK_OF_EACH_KIND)
def test_a_text_of_a_million_characters_is_read_in_seconds(task: str) -> None:
    """The originals take 45 seconds for 40,000 `>`, and a square more for the million."""
    text = "".join(
        letters * (1_000_000 // len(REPEATED) // len(letters)) + ENDS[i % 3]
        for i, letters in enumerate(REPEATED)
    )
    started = time.perf_counter()
    parse(task, text, image_size=THOUSAND)
    parse(task, ">" * 200_000, image_size=THOUSAND)
    assert time.perf_counter() - started < 20


@pytest.mark.slow
@pytest.mark.parametrize("letters", REPEATED)
@pytest.mark.parametrize("task", ONE_TASK_OF_EACH_KIND)
def test_a_million_characters_of_any_kind_are_read_in_seconds(task: str, letters: str) -> None:
    for end, convention in itertools.product(ENDS, CONVENTIONS):
        text = letters * (1_000_000 // len(letters)) + end
        started = time.perf_counter()
        parse(task, text, image_size=THOUSAND, convention=convention)
        assert time.perf_counter() - started < 20


# Microsoft's own rules, by hand.


def microsoft(task: str, text: str) -> Any:
    return parse(task, text, image_size=THOUSAND, convention="microsoft")[f"<{task}>"]


def test_microsoft_keeps_white_space_and_padding_of_plain_text() -> None:
    assert microsoft("CAPTION", "</s><s> A car. </s><pad>") == " A car. <pad>"


def test_microsoft_keeps_the_end_marker_and_the_spaces_of_a_quads_label() -> None:
    text = "</s><s>ab " + located(*range(8)) + " c\nd" + located(*range(8)) + "</s>"
    assert microsoft("OCR_WITH_REGION", text) == {
        "quad_boxes": [[0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5]] * 2,
        "labels": ["</s>ab ", "d"],
    }


def test_microsoft_gives_the_centres_of_bins() -> None:
    text = "</s><s>car" + located(53, 334, 933, 775, 1, 2, 3, 4, 5) + "</s>"
    assert microsoft("OD", text) == {
        "bboxes": [[53.5, 334.5, 933.5, 775.5], [1.5, 2.5, 3.5, 4.5]],
        "labels": ["car", "car"],
    }


def test_microsoft_computes_in_single_precision() -> None:
    text = located(0, 999, 53, 64)
    answer = parse("REGION_PROPOSAL", text, image_size=(1300, 876), convention="microsoft")
    assert answer["<REGION_PROPOSAL>"]["bboxes"] == [
        [0.6499999761581421, 875.56201171875, 69.54999542236328, 56.50199890136719]
    ]


def test_microsoft_cuts_a_broken_location_off_a_polygons_label() -> None:
    text = "loc_12>dog<poly>" + located(1, 2, 3, 4) + "</poly>"
    answer = microsoft("OPEN_VOCABULARY_DETECTION", text)
    assert answer["polygons_labels"] == ["dog"]
    native = parse("OPEN_VOCABULARY_DETECTION", text, image_size=THOUSAND)
    assert native["<OPEN_VOCABULARY_DETECTION>"]["polygons_labels"] == ["loc_12>dog"]


def test_microsoft_keeps_the_first_location_before_a_bare_polygons_label() -> None:
    text = "<loc_1><sep>" + located(2, 3, 4, 5, 6, 7)
    rings = [[], [2.5, 3.5, 4.5, 5.5, 6.5, 7.5]]
    assert microsoft("REFERRING_EXPRESSION_SEGMENTATION", text) == {
        "polygons": [rings],
        "labels": [""],
    }


# What the rules mean, for a reader.


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("car<loc_1><loc_2><loc_3>", []),
        ("car<loc_1><loc_2><loc_3><loc_4><loc_5>", ["car"]),
        ("a café<loc_1><loc_2><loc_3><loc_4>", ["a caf"]),
        ("two\nlines<loc_1><loc_2><loc_3><loc_4>bus<loc_1><loc_2><loc_3><loc_4>", ["bus"]),
        ("<loc_1><loc_2><loc_3><loc_4>", []),
        ("ca<s>r<loc_1><loc</s>_2><loc_3><loc_4>", ["car"]),
        ("<obj>car<loc_1><loc_2><loc_3><loc_4>", ["obj>car"]),
    ],
)
def test_only_a_label_on_one_line_with_four_locations_is_an_object(
    text: str, labels: list[str]
) -> None:
    assert parse("OD", text, image_size=THOUSAND)["<OD>"]["labels"] == labels


def test_grounding_drops_pronouns_as_written() -> None:
    box = located(1, 2, 3, 4)
    answer = parse("CAPTION_TO_PHRASE_GROUNDING", f"it{box}It{box}", image_size=THOUSAND)
    assert answer["<CAPTION_TO_PHRASE_GROUNDING>"]["labels"] == ["It"]


def test_an_open_vocabulary_answer_holds_boxes_or_polygons_but_never_both() -> None:
    box, outline = "car" + located(1, 2, 3, 4), "bus<poly>" + located(1, 2, 3, 4, 5, 6) + "</poly>"

    def counts(text: str) -> tuple[int, int]:
        answer = parse("OPEN_VOCABULARY_DETECTION", text, image_size=THOUSAND)
        columns = answer["<OPEN_VOCABULARY_DETECTION>"]
        return len(columns["bboxes"]), len(columns["polygons"])

    assert counts(box) == (1, 0)
    assert counts(outline) == (0, 1)
    assert counts(outline + box) == (0, 2)


def test_one_thing_has_several_rings_and_an_answer_several_things() -> None:
    text = f"<poly>{located(1, 2, 3, 4)}<sep>{located(5, 6)}</poly><poly>{located(7, 8, 9)}</poly>"
    answer = parse("REGION_TO_SEGMENTATION", text, image_size=THOUSAND)
    assert answer["<REGION_TO_SEGMENTATION>"]["polygons"] == [[[1, 2, 3, 4], [5, 6]], [[7, 8]]]


def test_an_unknown_task_is_a_free_prompt_answered_in_words() -> None:
    assert parse("What is it?", "</s><s>A car.</s>", image_size=THOUSAND) == {
        "What is it?": "A car."
    }


def test_plain_text_of_a_structured_answer_keeps_its_locations() -> None:
    assert plain_text("</s><s>car<loc_1> </s>", "native") == "car<loc_1>"


def test_a_convention_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(RequestError, match=r"Use 'native' .* or 'microsoft'"):
        parse("OD", "", image_size=THOUSAND, convention="roboflow")  # type: ignore[arg-type]


@pytest.mark.parametrize("image_size", [(0, 5), (5, -1), (1, 2, 3)])
def test_an_impossible_image_size_is_refused(image_size: Any) -> None:
    with pytest.raises(RequestError, match=r"Give \(width, height\)"):
        parse("OD", "", image_size=image_size)
