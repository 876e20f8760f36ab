import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from florence_edge.errors import BundleError
from florence_edge.tokenizer import FLORENCE_TOKENS
from florence_edge_export.checkpoint.tokenizer import complete_tokenizer

from ..helpers.assets import Asset
from . import folders

_TEXTS = (
    "What does the image describe?",
    "What is the polygon mask of region <loc_52><loc_332><loc_932><loc_774>",
    "Locate a green car<and>a door in the image.",
    " car<loc_0><loc_999>\n\ttwo  spaces <loc_1000> <poly><sep></poly>",
    "naïve 日本語 🚗 <region_to_desciption> <region_to_description>",
    "<od></od><ocr><seg><cap></dcap><mask><unk><s></s><pad>",
)


def test_the_hubs_tokenizer_is_completed_to_the_original(asset: Asset, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").symlink_to(asset("florence-2/tokenizer.hub.json"))
    completed = complete_tokenizer(tmp_path, 51289)
    expected = Tokenizer.from_file(str(asset("florence-2/tokenizer.json")))
    assert completed.get_vocab(with_added_tokens=True) == expected.get_vocab(with_added_tokens=True)
    assert completed.token_to_id("<od>") == 50265
    assert completed.token_to_id("<loc_999>") == 51268
    assert completed.token_to_id("<and>") == 51288
    for text in _TEXTS:
        assert completed.encode(text).ids == expected.encode(text).ids


@pytest.mark.parametrize(
    "name",
    ["tokenizer.json", "tokenizer.native-with-image.json", "native-processor/tokenizer.json"],
)
def test_a_complete_tokenizer_stays_as_it_is(asset: Asset, tmp_path: Path, name: str) -> None:
    path = asset(f"florence-2/{name}")
    (tmp_path / "tokenizer.json").symlink_to(path)
    original = Tokenizer.from_file(str(path))
    assert complete_tokenizer(tmp_path, 51328).to_str() == original.to_str()


def test_a_completed_tokenizer_that_was_saved_says_the_same(asset: Asset, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").symlink_to(asset("florence-2/tokenizer.hub.json"))
    completed = complete_tokenizer(tmp_path, 51289)
    again = Tokenizer.from_str(completed.to_str())
    for text in _TEXTS:
        ids = completed.encode(text).ids
        assert again.encode(text).ids == ids
        assert again.decode(ids, skip_special_tokens=False) == completed.decode(
            ids, skip_special_tokens=False
        )


def test_the_order_is_microsofts() -> None:
    assert len(FLORENCE_TOKENS) == len(set(FLORENCE_TOKENS)) == 1024
    assert FLORENCE_TOKENS[:5] == ("<od>", "</od>", "<ocr>", "</ocr>", "<loc_0>")
    assert FLORENCE_TOKENS[1003:1006] == ("<loc_999>", "<cap>", "</cap>")
    assert FLORENCE_TOKENS[-1] == "<and>"


def test_the_twins_tokenizer_is_completed_to_the_native_one(
    microsoft_checkpoint: Path, tiny_checkpoint: Path
) -> None:
    completed = complete_tokenizer(microsoft_checkpoint, 2560)
    native = complete_tokenizer(tiny_checkpoint, 2560)
    assert completed.get_vocab() == native.get_vocab()


def test_a_checkpoint_without_tokenizer_says_where_to_get_one(native: Path) -> None:
    (native / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"no tokenizer\.json\. Copy it from the model"):
        complete_tokenizer(native, 2560)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"model": null}'])
def test_a_file_that_is_no_tokenizer_is_refused(native: Path, content: bytes) -> None:
    (native / "tokenizer.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"is not a tokenizer.*Copy it again"):
        complete_tokenizer(native, 2560)


def test_a_tokenizer_with_part_of_the_tokens_is_refused(native: Path) -> None:
    def drop(tokenizer: dict[str, list[dict[str, str]]]) -> None:
        tokenizer["added_tokens"] = tokenizer["added_tokens"][:-3]

    folders.edit_json(native / "tokenizer.json", drop)
    with pytest.raises(BundleError, match=r"and 3 in all. Use the tokenizer of the original"):
        complete_tokenizer(native, 2560)


def test_tokens_that_the_model_has_no_embedding_for_are_named(native: Path) -> None:
    """Added to the tokenizer, and the model was not resized."""

    def add(tokenizer: dict[str, list[dict[str, object]]]) -> None:
        first = tokenizer["added_tokens"][0]
        for content, token_id in (("<gripper>", 2559), ("<robot>", 2560), ("<image>", 2561)):
            tokenizer["added_tokens"].append({**first, "content": content, "id": token_id})

    _fill_up(native, 2559)
    complete_tokenizer(native, 2560)
    folders.edit_json(native / "tokenizer.json", add)
    with pytest.raises(
        BundleError, match=r"has tokens \(1\) .*<robot> is 2560.*resize_token_embeddings"
    ):
        complete_tokenizer(native, 2560)
    complete_tokenizer(native, 2561)  # <image> is where the picture goes, and never looked up


def _fill_up(folder: Path, count: int) -> None:
    """The tokenizers package gives an added token the next number, whatever the file says."""

    def edit(tokenizer: dict[str, list[dict[str, object]]]) -> None:
        added = tokenizer["added_tokens"]
        first, last = added[0], max(int(str(token["id"])) for token in added)
        for token_id in range(last + 1, count):
            added.append({**first, "content": f"<filler_{token_id}>", "id": token_id})

    folders.edit_json(folder / "tokenizer.json", edit)


@pytest.mark.parametrize("token_id", [2**31, 2**32, -1, 1.5, "7", True])
def test_an_id_that_no_vocabulary_has_is_refused(native: Path, token_id: object) -> None:
    """With 2^31 the tokenizers package asks for more memory than there is, and aborts."""

    def edit(tokenizer: dict[str, list[dict[str, object]]]) -> None:
        tokenizer["added_tokens"][-1]["id"] = token_id

    folders.edit_json(native / "tokenizer.json", edit)
    with pytest.raises(BundleError, match=r"is not a tokenizer: .*<and>"):
        complete_tokenizer(native, 2560)


def test_a_tokenizer_nested_without_end_is_refused(native: Path) -> None:
    (native / "tokenizer.json").write_text("[" * 10**6)
    with pytest.raises(BundleError, match="is not a tokenizer"):
        complete_tokenizer(native, 2560)


def test_a_tokenizer_beyond_the_vocabulary_is_refused(native: Path) -> None:
    highest = len(json.loads((native / "tokenizer.json").read_text())["added_tokens"]) + 255
    complete_tokenizer(native, highest + 1)
    with pytest.raises(BundleError, match="do not belong together"):
        complete_tokenizer(native, highest)
