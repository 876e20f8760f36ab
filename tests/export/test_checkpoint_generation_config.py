"""From which file a checkpoint's settings of generation are read, and which are refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from florence_edge.errors import BundleError
from florence_edge.options import GenerationConfig
from florence_edge_export.checkpoint.config import read_config
from florence_edge_export.checkpoint.defaults import GenerationDefaults, read_generation

from ..helpers.assets import DATA
from . import folders


def _read(folder: Path) -> GenerationDefaults:
    return read_generation(folder, read_config(folder))


def _write_generation(folder: Path, **settings: Any) -> None:
    (folder / "generation_config.json").write_text(json.dumps(settings))


def test_in_microsofts_layout_the_inner_language_model_decides() -> None:
    """Its generation_config.json says early_stopping false, and its code never reads that."""
    defaults = _read(DATA / "tiny" / "microsoft")
    recorded = json.loads((DATA / "tiny" / "microsoft" / "reference.json").read_text())
    used = recorded["language_model_generation_config"]
    assert defaults.sources == ("text_config",)
    assert defaults.generation.early_stopping is True
    for name in (
        *("num_beams", "early_stopping", "no_repeat_ngram_size", "length_penalty"),
        *("forced_bos_token_id", "forced_eos_token_id", "decoder_start_token_id"),
        *("bos_token_id", "pad_token_id"),
    ):
        assert getattr(defaults.generation, name) == used[name], name
    assert defaults.generation.eos_token_id == (used["eos_token_id"],)


def test_in_the_native_layout_generation_config_counts_alone() -> None:
    defaults = _read(DATA / "tiny" / "native")
    assert defaults.sources == ("generation_config.json",)
    assert defaults.generation == GenerationConfig(
        num_beams=3,
        max_new_tokens=1024,
        min_new_tokens=0,
        no_repeat_ngram_size=3,
        repetition_penalty=1.0,
        length_penalty=1.0,
        early_stopping=True,
        forced_bos_token_id=0,
        forced_eos_token_id=2,
        suppress_tokens=(),
        begin_suppress_tokens=(),
        bad_words_ids=(),
        decoder_start_token_id=2,
        bos_token_id=0,
        eos_token_id=(2,),
        pad_token_id=1,
    )


def test_the_twin_has_the_native_checkpoints_settings(
    tiny_checkpoint: Path, microsoft_checkpoint: Path
) -> None:
    assert _read(tiny_checkpoint).generation == _read(microsoft_checkpoint).generation


def test_without_generation_config_config_wins_over_its_text_config(native: Path) -> None:
    (native / "generation_config.json").unlink()

    def state(config: dict[str, Any]) -> None:
        config.update(num_beams=7, length_penalty=0.5)
        config["text_config"].update(num_beams=6, no_repeat_ngram_size=6)

    folders.edit_config(native, state)
    defaults = _read(native)
    assert defaults.sources == ("config.json", "text_config")
    generation = defaults.generation
    assert (generation.num_beams, generation.length_penalty) == (7, 0.5)
    assert generation.no_repeat_ngram_size == 6


def test_what_nobody_states_is_hugging_faces_default(native: Path) -> None:
    (native / "generation_config.json").unlink()
    defaults = _read(native)
    assert defaults.sources == ("config.json", "text_config")
    assert defaults.generation.num_beams == 1
    assert defaults.generation.early_stopping is False
    assert defaults.generation.no_repeat_ngram_size == 0
    assert defaults.generation.forced_bos_token_id == -1
    assert defaults.generation.forced_eos_token_id == -1


ALL_RULES: dict[str, Any] = {
    "num_beams": 2,
    "max_length": 30,
    "min_length": 5,
    "repetition_penalty": 1.25,
    "no_repeat_ngram_size": 4,
    "length_penalty": 0.5,
    "early_stopping": "never",
    "suppress_tokens": [11, 12],
    "begin_suppress_tokens": [13],
    "bad_words_ids": [[14], [15, 16]],
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 2,
    "decoder_start_token_id": 2,
    "bos_token_id": 0,
    "eos_token_id": [2, 40],
    "pad_token_id": 1,
}


def test_every_rule_of_generation_config_is_in_the_bundle(native: Path) -> None:
    _write_generation(native, **ALL_RULES)
    assert _read(native).generation == GenerationConfig(
        num_beams=2,
        max_new_tokens=29,  # max_length counts the start token
        min_new_tokens=4,
        no_repeat_ngram_size=4,
        repetition_penalty=1.25,
        length_penalty=0.5,
        early_stopping="never",
        forced_bos_token_id=0,
        forced_eos_token_id=2,
        suppress_tokens=(11, 12),
        begin_suppress_tokens=(13,),
        bad_words_ids=((14,), (15, 16)),
        decoder_start_token_id=2,
        bos_token_id=0,
        eos_token_id=(2, 40),
        pad_token_id=1,
    )


@pytest.mark.parametrize("file", ["generation_config.json", "config.json", "text_config"])
@pytest.mark.parametrize(
    "rules",
    [
        {},
        ALL_RULES,
        {"num_beams": 3, "no_repeat_ngram_size": 3},
        {"max_length": 20},
        {"max_new_tokens": 7, "max_length": 99, "min_new_tokens": 2, "min_length": 50},
        {"decoder_start_token_id": 2, "eos_token_id": 2, "pad_token_id": 1},
        {"bos_token_id": 0, "eos_token_id": [2], "forced_eos_token_id": [2]},
        {"forced_bos_token_id": 0, "temperature": 0.3, "top_k": 5, "do_sample": False},
    ],
    ids=str,
)
def test_settings_are_read_from_where_transformers_reads_them(
    native: Path, file: str, rules: dict[str, Any]
) -> None:
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    if file == "generation_config.json":
        _write_generation(native, **rules)
    else:
        (native / "generation_config.json").unlink()

        def state(config: dict[str, Any]) -> None:
            (config if file == "config.json" else config["text_config"]).update(rules)

        folders.edit_config(native, state)
    ours = _read(native).generation
    model = transformers.Florence2ForConditionalGeneration.from_pretrained(native)
    theirs = model.generation_config.to_dict()
    assumed = model.generation_config._get_default_generation_params()

    def used(name: str) -> Any:
        return assumed.get(name) if theirs.get(name) is None else theirs[name]

    for name in ("num_beams", "repetition_penalty", "length_penalty", "early_stopping"):
        assert getattr(ours, name) == used(name), name
    assert ours.no_repeat_ngram_size == used("no_repeat_ngram_size")
    for name in ("forced_bos_token_id", "forced_eos_token_id"):
        forced = used(name)
        forced = forced[0] if isinstance(forced, list) else forced
        assert getattr(ours, name) == (-1 if forced is None else forced), name
    for name in ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids"):
        listed = tuple(tuple(x) if isinstance(x, list) else x for x in used(name) or ())
        assert getattr(ours, name) == listed, name
    start = (
        theirs["bos_token_id"]
        if used("decoder_start_token_id") is None
        else used("decoder_start_token_id")
    )
    if start is not None:  # otherwise `generate` refuses, and ours are BART's
        assert ours.decoder_start_token_id == start
    if used("eos_token_id") is not None:
        ends = used("eos_token_id")
        assert ours.eos_token_id == tuple(ends if isinstance(ends, list) else [ends])
    if theirs["max_new_tokens"] is not None or theirs["max_length"] not in (None, 20):
        longest = theirs["max_new_tokens"] or theirs["max_length"] - 1
        assert ours.max_new_tokens == longest
    else:  # a length of 20 is meant where it is a file's of its own, and not config.json's
        stated = file == "generation_config.json" and "max_length" in rules
        assert ours.max_new_tokens == (19 if stated else 1024)


def test_microsofts_code_takes_lengths_and_rules_from_text_config(microsoft: Path) -> None:
    rules = {name: ALL_RULES[name] for name in ALL_RULES if not name.endswith("token_id")}
    folders.edit_config(microsoft, lambda config: config["text_config"].update(rules))
    generation = _read(microsoft).generation
    assert (generation.max_new_tokens, generation.min_new_tokens) == (29, 4)
    assert generation.repetition_penalty == 1.25
    assert generation.bad_words_ids == ((14,), (15, 16))
    folders.edit_config(microsoft, lambda config: config["text_config"].update(max_length=20))
    assert _read(microsoft).generation.max_new_tokens == 1024


def test_rules_that_microsofts_code_never_reads_are_named(
    microsoft: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _write_generation(microsoft, num_beams=3, early_stopping=False)
    _read(microsoft)
    assert caplog.messages == []
    _write_generation(microsoft, max_length=50, repetition_penalty=1.5, do_sample=True)
    assert _read(microsoft).generation.repetition_penalty == 1.0
    assert "max_length, repetition_penalty, do_sample" in caplog.text
    assert "text_config" in caplog.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("do_sample", True),
        ("num_beam_groups", 2),
        ("diversity_penalty", 0.5),
        ("penalty_alpha", 0.6),
        ("exponential_decay_length_penalty", [10, 1.1]),
        ("sequence_bias", [[[4], -1.0]]),
        ("encoder_repetition_penalty", 1.2),
        ("encoder_no_repeat_ngram_size", 3),
        ("force_words_ids", [[4]]),
        ("constraints", [1]),
        ("guidance_scale", 1.5),
        ("forced_decoder_ids", [[1, 5]]),
        ("stop_strings", ["."]),
        ("remove_invalid_values", True),
        ("renormalize_logits", True),
        ("watermarking_config", {"bias": 1.0}),
        ("prompt_lookup_num_tokens", 4),
        ("num_return_sequences", 3),
        ("max_time", 3.0),
        ("token_healing", True),
        ("dola_layers", "low"),
    ],
)
def test_what_this_runtime_does_not_do_is_refused_by_name(
    native: Path, microsoft: Path, name: str, value: Any
) -> None:
    _write_generation(native, **{name: value})
    with pytest.raises(
        BundleError, match=rf"generation_config\.json asks for {name} = .*does not do"
    ):
        _read(native)
    folders.edit_config(microsoft, lambda config: config["text_config"].update({name: value}))
    with pytest.raises(BundleError, match=rf"config\.json asks for {name} = "):
        _read(microsoft)


def test_settings_that_are_off_or_of_sampling_alone_are_no_reason_to_refuse(native: Path) -> None:
    """As older releases of transformers wrote them all into config.json."""
    off = {
        "do_sample": False,
        "num_beam_groups": 1,
        "diversity_penalty": 0.0,
        "encoder_no_repeat_ngram_size": 0,
        "num_return_sequences": 1,
        "remove_invalid_values": False,
        "exponential_decay_length_penalty": None,
        "suppress_tokens": None,
        "temperature": 1.0,
        "top_k": 50,
        "top_p": 0.9,
        "typical_p": 1.0,
        "output_scores": False,
        "return_dict_in_generate": False,
        "use_cache": True,
        "min_length": 0,
    }
    before = _read(native).generation
    own = json.loads((native / "generation_config.json").read_text())
    _write_generation(native, **own, **off)
    assert _read(native).generation == before


def test_a_length_beyond_the_positions_ends_there_and_is_named(
    native: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _write_generation(native, max_length=5000, min_length=4000)
    generation = _read(native).generation
    assert (generation.max_new_tokens, generation.min_new_tokens) == (1024, 1024)
    assert "generation_config.json asks for answers of up to 4999 tokens" in caplog.text


def test_null_states_nothing(native: Path) -> None:
    _write_generation(native, num_beams=None, forced_bos_token_id=None)
    assert _read(native).generation.num_beams == 1
    assert _read(native).generation.forced_bos_token_id == -1


def test_an_answer_may_fill_the_positions_but_not_more(native: Path) -> None:
    assert _read(native).generation.max_new_tokens == 1024
    folders.edit_config(native, lambda c: c["text_config"].update(max_position_embeddings=128))
    assert _read(native).generation.max_new_tokens == 128
    folders.edit_config(native, lambda c: c["text_config"].update(max_position_embeddings=4096))
    assert _read(native).generation.max_new_tokens == 1024


def test_end_tokens_come_alone_or_as_a_list(native: Path) -> None:
    for stated, found in ((2, (2,)), ([2], (2,)), ([2, 7, 2], (2, 7))):
        _write_generation(native, eos_token_id=stated)
        assert _read(native).generation.eos_token_id == found


@pytest.mark.parametrize(
    "setting",
    [
        {"num_beams": "three"},
        {"num_beams": 2.5},
        {"num_beams": True},
        {"num_beams": 10},
        {"num_beams": 0},
        {"early_stopping": "sometimes"},
        {"length_penalty": "1.0"},
        {"length_penalty": -4.0},
        {"repetition_penalty": 0.0},
        {"no_repeat_ngram_size": -1},
        {"max_length": 1},
        {"max_length": True},
        {"max_length": "long"},
        {"min_length": -3},
        {"max_new_tokens": 0},
        {"min_new_tokens": -1},
        {"min_new_tokens": True},
        {"eos_token_id": []},
        {"eos_token_id": True},
        {"eos_token_id": -1},
        {"eos_token_id": 2560},
        {"pad_token_id": {}},
        {"pad_token_id": -1},
        {"bos_token_id": True},
        {"bos_token_id": 1e30},
        {"decoder_start_token_id": 10**30},
        {"forced_bos_token_id": True},
        {"forced_bos_token_id": 2560},
        {"forced_eos_token_id": [2, 3]},
        {"suppress_tokens": [-1]},
        {"suppress_tokens": 3},
        {"begin_suppress_tokens": [2560]},
        {"bad_words_ids": [[]]},
        {"bad_words_ids": [3]},
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_named_with_their_file(
    native: Path, setting: dict[str, Any]
) -> None:
    _write_generation(native, **setting)
    name = next(iter(setting))
    with pytest.raises(
        BundleError, match=rf"generation_config\.json cannot be followed: {name} (is|has) "
    ):
        _read(native)


def test_the_file_named_is_the_one_that_states_it(native: Path) -> None:
    (native / "generation_config.json").unlink()
    folders.edit_config(native, lambda config: config["text_config"].update(num_beams=10))
    with pytest.raises(BundleError, match=r"/config\.json cannot be followed: num_beams is 10; "):
        _read(native)


def test_a_garbled_generation_config_is_refused(native: Path) -> None:
    (native / "generation_config.json").write_text("{")
    with pytest.raises(BundleError, match=r"generation_config\.json "):
        _read(native)
