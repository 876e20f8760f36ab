import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from florence_edge.errors import BundleError
from florence_edge.tasks import TASKS
from florence_edge.text import Tokenizer

from .scripted import DEFAULTS

TEXTS = [
    "A cat sits on a mat.",
    "  two  spaces\tand\nlines ",
    "naïve café, 中新中, 🇩🇪 👩‍👩‍👧, ﷽",
    "</s><s>car<loc_53><loc_333><loc_932><loc_772></s>",
    "<poly><loc_1><loc_2></poly><sep><and><region_to_desciption>",
]


@pytest.fixture(scope="module")
def florence_json(assets: Path) -> Path:
    return assets / "florence-2" / "tokenizer.json"


@pytest.fixture(scope="module")
def tokenizer(florence_json: Path) -> Tokenizer:
    return Tokenizer(florence_json, DEFAULTS)


@pytest.fixture(scope="module")
def engine(florence_json: Path) -> tokenizers.Tokenizer:
    """The library behind ours, with its own decoder."""
    return tokenizers.Tokenizer.from_file(str(florence_json))


@pytest.mark.parametrize("text", TEXTS)
def test_text_survives_the_way_to_ids_and_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.prompt_ids(text)
    assert ids[0] == DEFAULTS.bos_token_id
    assert ids[-1] == DEFAULTS.eos_token_id
    assert tokenizer.decode(ids) == f"<s>{text}</s>"


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
def transformers_tokenizer(assets: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(assets / "tiny-native-layout")


def test_prompts_and_answers_are_those_of_transformers(
    assets: Path, transformers_tokenizer: Any
) -> None:
    tokenizer = Tokenizer(assets / "tiny-native-layout" / "tokenizer.json", DEFAULTS)
    region = "<loc_1><loc_20><loc_300><loc_999>"
    prompts = [task.template.replace("{input}", region) for task in TASKS.values()]
    for text in [*prompts, *TEXTS]:
        ids = transformers_tokenizer(text)["input_ids"]
        assert tokenizer.prompt_ids(text) == ids
        assert tokenizer.decode(ids) == transformers_tokenizer.decode(ids)


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


@pytest.mark.parametrize("content", [b"", b"{}", b"\x00\xff", b'{"version": "9.0"}'])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"tokenizer\.json is not a tokenizer: .* Export"):
        Tokenizer(path, DEFAULTS)
