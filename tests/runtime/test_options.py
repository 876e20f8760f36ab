from dataclasses import asdict, replace
from typing import Any

import pytest

from florence_edge import GenerationOptions, RequestError
from florence_edge.options import GenerationConfig, resolve

from ..helpers.engines import TOY_SIZE
from .scripted import DEFAULTS


def test_what_is_left_open_is_what_the_checkpoint_says() -> None:
    assert resolve(None, DEFAULTS, TOY_SIZE) == DEFAULTS
    assert resolve(GenerationOptions(), DEFAULTS, TOY_SIZE) == DEFAULTS


def test_what_is_requested_replaces_what_the_checkpoint_says() -> None:
    values: dict[str, Any] = {
        "num_beams": 5,
        "max_new_tokens": 64,
        "no_repeat_ngram_size": 2,
        "length_penalty": 0.5,
        "early_stopping": "never",
        "forced_bos_token_id": 0,
        "forced_eos_token_id": 2,
    }
    assert {*values, "max_time"} == set(GenerationOptions.__dataclass_fields__)
    resolved = resolve(GenerationOptions(**values), DEFAULTS, TOY_SIZE)
    assert resolved == replace(DEFAULTS, **values)


def test_a_time_limit_is_no_setting_of_a_checkpoint() -> None:
    assert resolve(GenerationOptions(max_time=0.2), DEFAULTS, TOY_SIZE) == DEFAULTS
    assert "max_time" not in GenerationConfig.__dataclass_fields__


def test_zero_false_and_minus_one_are_values_too() -> None:
    eager = replace(
        DEFAULTS,
        no_repeat_ngram_size=3,
        length_penalty=1.0,
        early_stopping=True,
        forced_bos_token_id=0,
        forced_eos_token_id=2,
    )
    off = GenerationOptions(
        no_repeat_ngram_size=0,
        length_penalty=0.0,
        early_stopping=False,
        forced_bos_token_id=-1,
        forced_eos_token_id=-1,
    )
    resolved = asdict(resolve(off, eager, TOY_SIZE))
    assert {name: resolved[name] for name, value in asdict(off).items() if value is not None} == {
        name: value for name, value in asdict(off).items() if value is not None
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_beams": 0}, r"num_beams is 0; it must be .*1 \(greedy\) to 8"),
        ({"num_beams": 9}, r"num_beams is 9; it must be .*1 \(greedy\) to 8"),
        ({"num_beams": 2.5}, r"num_beams is 2.5; it must be .*1 \(greedy\) to 8"),
        ({"num_beams": "3"}, r"num_beams is '3'; it must be"),
        ({"max_new_tokens": 0}, "must be .*1 to 64"),
        ({"max_time": 0}, "max_time is 0; it must be a number of seconds above 0"),
        ({"max_time": -1.0}, "max_time is -1.0"),
        ({"max_time": float("nan")}, "max_time is nan"),
        ({"max_time": "soon"}, "max_time is 'soon'"),
        ({"max_new_tokens": 65}, "must be .*1 to 64, this model's decoder positions"),
        ({"max_new_tokens": 4.0}, "max_new_tokens is 4.0"),
        ({"no_repeat_ngram_size": -1}, r"no_repeat_ngram_size is -1; it must be .*0 \(off\)"),
        ({"no_repeat_ngram_size": 1.5}, r"no_repeat_ngram_size is 1.5; it must be .*0 \(off\)"),
        ({"length_penalty": float("nan")}, "length_penalty is nan; it must be a number"),
        ({"length_penalty": float("inf")}, "length_penalty is inf; it must be a number"),
        ({"length_penalty": 200}, "length_penalty is 200; it must be a number from -10 to 10"),
        ({"length_penalty": "1"}, "length_penalty is '1'; it must be a number"),
        ({"early_stopping": "always"}, "it must be True, False or 'never'"),
        ({"early_stopping": 1}, "it must be True, False or 'never'"),
        ({"forced_bos_token_id": "<s>"}, r"forced_bos_token_id is '<s>'; .*or -1 \(off\)"),
        ({"forced_eos_token_id": -2}, r"forced_eos_token_id is -2; .*or -1 \(off\)"),
        ({"forced_bos_token_id": 100}, r"forced_bos_token_id is 100; .*up to 99, or -1 \(off\)"),
        ({"forced_eos_token_id": 1.0}, r"forced_eos_token_id is 1.0; .*or -1 \(off\)"),
    ],
)
def test_a_value_out_of_range_is_refused_with_the_range(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        resolve(GenerationOptions(**values), DEFAULTS, TOY_SIZE)


def test_an_option_that_does_not_exist_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="temperature"):
        GenerationOptions(temperature=0.7)  # type: ignore[call-arg]


def test_a_request_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="num_beams"):
        resolve(GenerationOptions(num_beams=0), DEFAULTS, TOY_SIZE)
