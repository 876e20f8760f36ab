import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from florence_edge.errors import BundleError
from florence_edge.tasks import TASKS
from florence_edge.tokenizer import Tokenizer

from ..helpers.assets import Asset
from .scripted import DEFAULTS

TEXTS = [
    "A cat sits on a mat.",
    "  two  spaces\tand\nlines ",
    "naïve café, 中新中, 🇩🇪 👩‍👩‍👧, ﷽",
    "</s><s>car<loc_53><loc_333><loc_932><loc_772></s>",
    "<poly><loc_1><loc_2></poly><sep><and><region_to_desciption>",
]


# The same make: bytes merged to pairs, RoBERTa's marks, Florence's own tokens behind them.
MINIATURE = (
    Path(__file__).parents[2]
    / "calibration/florence_edge_calibration/miniature/checkpoint/tokenizer.json"
)


@pytest.fixture(scope="module", params=["the miniature's", "Florence-2's"])
def file(request: pytest.FixtureRequest, asset: Asset) -> Path:
    """Two tokenizers of one make: the committed one, and the real one where it is at hand."""
    if request.param == "the miniature's":
        return MINIATURE
    return asset("florence-2/tokenizer.json")


@pytest.fixture(scope="module")
def tokenizer(file: Path) -> Tokenizer:
    return Tokenizer(file, DEFAULTS)


@pytest.fixture(scope="module")
def engine(file: Path) -> tokenizers.Tokenizer:
    """The library behind ours, with its own decoder."""
    return tokenizers.Tokenizer.from_file(str(file))


@pytest.mark.parametrize("text", TEXTS)
def test_text_survives_the_way_to_ids_and_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.prompt_ids(text)
    assert ids[0] == DEFAULTS.bos_token_id
    assert (ids[-1],) == DEFAULTS.eos_token_id
    assert tokenizer.decode(ids) == f"<s>{text}</s>"


def test_a_prompt_ends_as_the_tokenizer_says_whatever_ends_an_answer(file: Path) -> None:
    other = replace(DEFAULTS, bos_token_id=5, eos_token_id=(9, 2))
    expected = Tokenizer(file, DEFAULTS).prompt_ids("a car")
    assert Tokenizer(file, other).prompt_ids("a car") == expected


@given(st.text())
def test_any_text_survives(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.prompt_ids(text)[1:-1]) == text


@given(st.lists(st.integers(0, 51288)))
def test_joined_pieces_are_what_the_library_decodes(
    tokenizer: Tokenizer, engine: tokenizers.Tokenizer, ids: list[int]
) -> None:
    pieces = tokenizer.pieces(ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == engine.decode(ids, skip_special_tokens=False)


@given(st.data())
def test_joined_pieces_of_broken_characters_are_what_the_library_decodes(
    tokenizer: Tokenizer, engine: tokenizers.Tokenizer, data: st.DataObject
) -> None:
    bytes_and_marks = [*range(4, 260), 0, 2, 50269]  # the tokens of single bytes come first
    ids = data.draw(st.lists(st.sampled_from(bytes_and_marks), max_size=12))
    assert tokenizer.decode(ids) == engine.decode(ids, skip_special_tokens=False)


def test_a_character_spread_over_tokens_belongs_to_the_last_of_them(
    tokenizer: Tokenizer,
) -> None:
    ids = tokenizer.prompt_ids("a🦜b")[1:-1]
    pieces = tokenizer.pieces(ids)
    assert len(ids) > 3
    assert pieces[0] == "a"
    assert pieces[-2:] == ["🦜", "b"]
    assert set(pieces[1:-2]) == {""}


def test_half_a_character_is_replaced_where_it_ends(tokenizer: Tokenizer) -> None:
    half = tokenizer.prompt_ids("🦜")[1:-2]
    assert tokenizer.pieces([*half, 2]) == [""] * len(half) + ["\ufffd</s>"]
    assert tokenizer.pieces(half)[-1] == "\ufffd"


def test_ids_beyond_the_vocabulary_are_silent(tokenizer: Tokenizer) -> None:
    assert tokenizer.pieces([0, 51300, 2]) == ["<s>", "", "</s>"]


def test_no_ids_are_no_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.pieces([]) == []
    assert tokenizer.decode([]) == ""


@pytest.fixture(scope="module")
def transformers_tokenizer(asset: Asset) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(asset("tiny-native-layout"))


def test_prompts_and_answers_are_those_of_transformers(
    asset: Asset, transformers_tokenizer: Any
) -> None:
    tokenizer = Tokenizer(asset("tiny-native-layout/tokenizer.json"), DEFAULTS)
    region = "<loc_1><loc_20><loc_300><loc_999>"
    prompts = [task.template.replace("{input}", region) for task in TASKS.values()]
    for text in [*prompts, *TEXTS]:
        ids = transformers_tokenizer(text)["input_ids"]
        assert tokenizer.prompt_ids(text) == ids
        assert tokenizer.decode(ids) == transformers_tokenizer.decode(ids)


# Text while it is made.


def streamed(tokenizer: Tokenizer, ids: list[int], steps: list[int]) -> list[str]:
    """The pieces where `steps` are the lengths at which the beginnings of `ids` come."""
    pieces: list[str] = []
    on_tokens = tokenizer.streamer(pieces.append)
    for length in steps:
        on_tokens(np.array(ids[:length], dtype=np.int64), False)
    on_tokens(np.array(ids, dtype=np.int64), True)
    return pieces


@pytest.mark.parametrize("text", ["é", "naïve café", "🦜", "👩‍👩‍👧", "中新中", "a🇩🇪b", "﷽"])
def test_no_piece_holds_half_a_character(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.prompt_ids(text)
    pieces = streamed(tokenizer, ids, list(range(1, len(ids) + 1)))
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece and piece for piece in pieces)


def test_the_bytes_of_a_character_come_with_the_last_of_them(tokenizer: Tokenizer) -> None:
    ids = [tokenizer.prompt_ids(letter)[1] for letter in "ab"]
    accent = bytes_of(tokenizer, "é".encode())
    parrot = bytes_of(tokenizer, "🦜".encode())
    every = [ids[0], *accent, *parrot, ids[1]]
    assert streamed(tokenizer, every, [1]) == ["a", "é🦜b"]
    assert streamed(tokenizer, every, list(range(1, 9))) == ["a", "é", "🦜", "b"]
    assert streamed(tokenizer, every, [2, 4, 6]) == ["a", "é", "🦜b"]


def bytes_of(tokenizer: Tokenizer, raw: bytes) -> list[int]:
    """The tokens of single bytes."""
    by_byte = {tokenizer.bytes_of(tokenizer.token(number)): number for number in range(51_000)}
    return [by_byte[bytes([byte])] for byte in raw]


def test_half_a_character_that_nothing_completes_comes_at_the_end(tokenizer: Tokenizer) -> None:
    half = bytes_of(tokenizer, "🦜".encode()[:2])
    assert streamed(tokenizer, [0, *half], [1, 2, 3]) == ["\ufffd"]
    assert streamed(tokenizer, [0, *half, 2], [1, 2, 3, 4]) == ["\ufffd"]  # </s> ends it


def test_markers_are_left_out_and_other_added_tokens_stay(tokenizer: Tokenizer) -> None:
    ids = tokenizer.prompt_ids("<pad>car<loc_5><sep>")
    assert "".join(streamed(tokenizer, ids, list(range(len(ids))))) == "car<loc_5><sep>"


def test_a_beginning_that_did_not_grow_gives_nothing(tokenizer: Tokenizer) -> None:
    ids = tokenizer.prompt_ids("a car")
    assert streamed(tokenizer, ids, [0, 0, 1, 1, len(ids), len(ids)]) == ["a car"]
    assert streamed(tokenizer, [], []) == []


@given(st.lists(st.integers(0, 51300)), st.lists(st.integers(0, 30)))
def test_joined_pieces_are_the_text_without_markers(
    tokenizer: Tokenizer, ids: list[int], steps: list[int]
) -> None:
    expected = "".join(
        piece
        for token_id, piece in zip(ids, tokenizer.pieces(ids), strict=True)
        for piece in [re.sub("(<s>|</s>|<pad>)$", "", piece) if token_id < 3 else piece]
    )
    assert "".join(streamed(tokenizer, ids, sorted(steps))) == expected


# What is wrong with a tokenizer.json, and what saving one after use leaves in it.

Edit = Callable[[dict[str, Any]], None]


@pytest.mark.parametrize(
    "edit",
    [
        lambda stored: stored.update(
            truncation={
                "direction": "Right",
                "max_length": 4,
                "strategy": "LongestFirst",
                "stride": 0,
            }
        ),
        lambda stored: stored.update(
            padding={
                "strategy": {"Fixed": 60},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 1,
                "pad_type_id": 0,
                "pad_token": "<pad>",
            }
        ),
    ],
    ids=["truncation", "padding"],
)
def test_padding_and_truncation_that_training_left_in_the_file_are_off(
    tiny_bundle: Path, tmp_path: Path, edit: Edit
) -> None:
    stored = json.loads((tiny_bundle / "tokenizer.json").read_text(encoding="utf-8"))
    edit(stored)
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored), encoding="utf-8")

    plain = Tokenizer(tiny_bundle / "tokenizer.json", DEFAULTS)
    edited = Tokenizer(tmp_path / "tokenizer.json", DEFAULTS)
    assert edited.prompt_ids("what is this?") == plain.prompt_ids("what is this?")


def test_text_that_is_no_unicode_is_encoded_all_the_same(tokenizer: Tokenizer) -> None:
    from_the_command_line = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert tokenizer.decode(tokenizer.prompt_ids(from_the_command_line)) == "<s>caf\ufffd</s>"


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{}", b"[1]", b"\x00\xff", b'{"version": "9.0"}', b'{"model": []}'),
        *(b'{"model": {"vocab": []}}', b'{"model": {"vocab": {}}, "added_tokens": {"id": 1}}'),
        *(b'{"model": {"vocab": {}}}', b'{"model": {"type": "BPE", "vocab": {}, "merges": [[1]]}}'),
        *(b"[" * 100_000, b'{"model":' * 100_000 + b"1" + b"}" * 100_000),
        *(b'{"model": {"vocab": {"a": NaN}}}', b'{"model": {"vocab": {"a": 1e999}}}'),
    ],
)
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"tokenizer\.json is not a tokenizer: .* Copy it again"):
        Tokenizer(path, DEFAULTS)


@pytest.mark.parametrize("token_id", [2**31, 2**32 - 1, 2**24, -1, 1.5, True, None, "5"])
@pytest.mark.parametrize("place", ["vocabulary", "added"])
def test_an_id_that_no_vocabulary_has_is_refused_before_the_library_ends_the_process(
    tiny_bundle: Path, tmp_path: Path, token_id: object, place: str
) -> None:
    content = json.loads((tiny_bundle / "tokenizer.json").read_text(encoding="utf-8"))
    if place == "added":
        content["added_tokens"][-1]["id"] = token_id
    else:
        content["model"]["vocab"]["zzz"] = token_id
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(BundleError, match=r"has the id .*, expected 0 to 16777215"):
        Tokenizer(path, DEFAULTS)


@settings(max_examples=60)
@given(data=st.data())
def test_no_damage_to_a_tokenizer_is_a_traceback(
    tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray((tiny_bundle / "tokenizer.json").read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "tokenizer.json"
    path.write_bytes(content)
    with suppress(BundleError):
        Tokenizer(path, DEFAULTS).prompt_ids("A cat sits on a mat.")
