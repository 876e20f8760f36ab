from itertools import product

import pytest

from florence_edge import contract
from florence_edge.errors import BackendError, RequestError
from florence_edge.tensorrt.profiles import (
    EngineOptions,
    Range,
    cache_capacities,
    profile_index,
    profiles,
    prompt_bucket,
    prompt_buckets,
)

from ..helpers.engines import BASE_SIZE


def test_prompts_are_padded_to_doubling_buckets_up_to_all_the_room() -> None:
    assert prompt_buckets(BASE_SIZE) == (16, 32, 64, 128, 256, 447)
    assert [prompt_bucket(tokens, BASE_SIZE) for tokens in (1, 16, 17, 257, 447)] == [
        *(16, 16, 32, 447, 447)
    ]


def test_caches_double_up_to_the_longest_answer() -> None:
    assert cache_capacities(1, BASE_SIZE) == (64,)
    assert cache_capacities(64, BASE_SIZE) == (64,)
    assert cache_capacities(65, BASE_SIZE) == (64, 128)
    assert cache_capacities(1024, BASE_SIZE) == (64, 128, 256, 512, 1024)


def test_the_decoder_has_a_profile_for_each_capacity_tuned_for_all_beams() -> None:
    of_decoder = profiles(BASE_SIZE, EngineOptions())[contract.DECODER]
    assert [profile.ranges["S"].max for profile in of_decoder] == [64, 128, 256]
    assert {profile.ranges["N"] for profile in of_decoder} == {Range(1, 3, 3)}


def test_in_place_one_profile_serves_all_rows_that_are_read() -> None:
    options = EngineOptions(max_new_tokens=200, in_place=256)
    (profile,) = profiles(BASE_SIZE, options)[contract.DECODER]
    assert profile.ranges["S"] == Range(64, 64, 256)


def test_engines_for_one_beam_are_greedy_alone() -> None:
    (profile,) = profiles(BASE_SIZE, EngineOptions(beams=1, max_new_tokens=64))[contract.DECODER]
    assert profile.ranges["N"] == profile.ranges["R"] == Range(1, 1, 1)


@pytest.mark.parametrize("options", [EngineOptions(), EngineOptions(batch=4, beams=5)])
def test_every_call_within_the_options_is_served_by_one_profile(options: EngineOptions) -> None:
    of_graphs = profiles(BASE_SIZE, options)
    for images, prompt in product((1, options.batch), prompt_buckets(BASE_SIZE)):
        encoded = BASE_SIZE.image_tokens + prompt
        call = {"B": images, "T": prompt, "E": encoded}
        assert of_graphs[contract.TEXT_ENCODER][
            profile_index(of_graphs[contract.TEXT_ENCODER], call)
        ].serves(call)
        for beams, capacity in product(
            range(1, options.beams + 1), cache_capacities(options.max_new_tokens, BASE_SIZE)
        ):
            step = {"B": images, "N": beams, "R": images * beams, "S": capacity, "E": encoded}
            serving = [profile.serves(step) for profile in of_graphs[contract.DECODER]]
            assert serving.count(True) == 1
            assert profile_index(of_graphs[contract.DECODER], step) == serving.index(True)


def test_a_call_beyond_the_options_is_refused_with_the_command() -> None:
    of_decoder = profiles(BASE_SIZE, EngineOptions())[contract.DECODER]
    with pytest.raises(BackendError, match=r"N = 4.*florence-build \(--batch, --beams"):
        profile_index(of_decoder, {"B": 1, "N": 4, "S": 64})


@pytest.mark.parametrize("graph", contract.GRAPHS)
def test_shapes_are_those_of_the_contract_in_rising_order(graph: str) -> None:
    signature = contract.graphs(BASE_SIZE, "float16")[graph]
    for profile in profiles(BASE_SIZE, EngineOptions(batch=2))[graph]:
        for tensor in signature.inputs:
            low, opt, high = profile.shapes(tensor)
            for side, smallest, middle, largest in zip(tensor.shape, low, opt, high, strict=True):
                assert smallest <= middle <= largest
                assert isinstance(side, str) or smallest == largest == side


def test_the_text_encoder_keeps_prompt_and_mask_of_one_length() -> None:
    for profile in profiles(BASE_SIZE, EngineOptions())[contract.TEXT_ENCODER]:
        prompt, encoded = profile.ranges["T"], profile.ranges["E"]
        assert [encoded.min - prompt.min, encoded.opt - prompt.opt] == [577, 577]
        assert encoded.max - prompt.max == 577


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (EngineOptions(batch=0), "--batch is 0; expected 1 or more images"),
        (EngineOptions(beams=9), r"--beams is 9; expected 1 \(greedy\) to 8"),
        (EngineOptions(max_new_tokens=1025), "--max-new-tokens is 1025; expected 1 to 1024"),
        (EngineOptions(workspace_mb=0), "--workspace is 0; expected 1 or more megabytes"),
    ],
)
def test_options_out_of_range_are_refused(options: EngineOptions, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        options.check(BASE_SIZE)
