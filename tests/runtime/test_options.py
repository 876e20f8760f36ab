from dataclasses import asdict, replace
from typing import Any

import numpy as np
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
        "min_new_tokens": 3,
        "no_repeat_ngram_size": 2,
        "repetition_penalty": 1.5,
        "length_penalty": 0.5,
        "early_stopping": "never",
        "forced_bos_token_id": 0,
        "forced_eos_token_id": 2,
        "suppress_tokens": (3, 4),
        "begin_suppress_tokens": (2,),
        "bad_words_ids": ((5,), (6, 7)),
        "eos_token_id": (2, 9),
    }
    assert {*values, "max_time"} == set(GenerationOptions.__dataclass_fields__)
    resolved = resolve(GenerationOptions(**values), DEFAULTS, TOY_SIZE)
    assert resolved == replace(DEFAULTS, **values)


def test_lists_of_any_kind_and_one_end_token_become_tuples() -> None:
    options = GenerationOptions(
        suppress_tokens=[3, np.int64(4)],
        begin_suppress_tokens=np.array([5]),  # type: ignore[arg-type]
        bad_words_ids=[[6], (7, 8)],
        eos_token_id=9,
    )
    found = resolve(options, DEFAULTS, TOY_SIZE)
    assert (found.suppress_tokens, found.begin_suppress_tokens) == ((3, 4), (5,))
    assert (found.bad_words_ids, found.eos_token_id) == (((6,), (7, 8)), (9,))
    assert {type(token) for token in (*found.suppress_tokens, *found.begin_suppress_tokens)} == {
        int
    }
    both = resolve(GenerationOptions(eos_token_id=[2, 9, 2]), DEFAULTS, TOY_SIZE)
    assert both.eos_token_id == (2, 9)


def test_an_empty_list_switches_off_what_a_checkpoint_suppresses() -> None:
    strict = replace(
        DEFAULTS, suppress_tokens=(3,), begin_suppress_tokens=(4,), bad_words_ids=((5,),)
    )
    off = GenerationOptions(suppress_tokens=[], begin_suppress_tokens=[], bad_words_ids=[])
    assert resolve(off, strict, TOY_SIZE) == DEFAULTS


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
        ({"length_penalty": 200}, "length_penalty is 200; it must be a number from -1 to 10"),
        ({"length_penalty": -1.5}, "length_penalty is -1.5; it must be a number from -1 to 10"),
        ({"length_penalty": True}, "length_penalty is True; it must be a number"),
        ({"length_penalty": 10**400}, "length_penalty is 1000.*; it must be a number"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0; it must be .* 0.01 to 100"),
        ({"repetition_penalty": -1.0}, "repetition_penalty is -1.0; it must be a number"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty is nan"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty is inf"),
        ({"repetition_penalty": True}, "repetition_penalty is True"),
        ({"num_beams": True}, r"num_beams is True; it must be .*1 \(greedy\) to 8"),
        ({"max_new_tokens": True}, "max_new_tokens is True"),
        ({"max_time": True}, "max_time is True; it must be a number of seconds above 0"),
        ({"max_time": float("inf")}, "max_time is inf"),
        ({"min_new_tokens": -1}, r"min_new_tokens is -1; it must be .*0 \(off\) to 64"),
        ({"min_new_tokens": 65}, r"min_new_tokens is 65; it must be .*0 \(off\) to 64"),
        ({"forced_bos_token_id": True}, "forced_bos_token_id is True"),
        ({"suppress_tokens": 3}, "suppress_tokens is 3; it must be a list of token ids"),
        ({"suppress_tokens": "3"}, "suppress_tokens is '3'; it must be a list of token ids"),
        ({"suppress_tokens": [-1]}, "suppress_tokens is -1; it must be .* from 0 to 99"),
        ({"suppress_tokens": [100]}, "suppress_tokens is 100; it must be .* from 0 to 99"),
        ({"suppress_tokens": [1e30]}, r"suppress_tokens is 1e\+30; it must be a whole number"),
        ({"begin_suppress_tokens": [True]}, "begin_suppress_tokens is True; it must be"),
        ({"bad_words_ids": [3]}, "bad_words_ids is 3; it must be a list of token ids"),
        ({"bad_words_ids": [[3], []]}, "bad_words_ids has an empty list"),
        ({"bad_words_ids": [[3.5]]}, "bad_words_ids is 3.5; it must be a whole number"),
        ({"eos_token_id": []}, "eos_token_id has 0 tokens"),
        ({"eos_token_id": True}, "eos_token_id is True"),
        ({"eos_token_id": -1}, "eos_token_id is -1; it must be .* from 0 to 99"),
        ({"eos_token_id": range(100)}, "eos_token_id has 100 tokens"),
        (
            {"forced_bos_token_id": 7, "suppress_tokens": [7]},
            "forced_bos_token_id is 7, which suppress_tokens forbid",
        ),
        (
            {"forced_eos_token_id": 7, "begin_suppress_tokens": [7], "max_new_tokens": 1},
            "max_new_tokens is 1, where forced_eos_token_id 7 comes first",
        ),
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
