import pytest

from florence_edge import contract

from ..helpers.engines import BASE_SIZE


@pytest.mark.parametrize(
    ("tokens", "positions", "capacity"),
    [
        (1, 1024, 64),
        (64, 1024, 64),
        (65, 1024, 128),
        (129, 1024, 256),
        (1024, 1024, 1024),
        (2000, 4096, 2048),
        (1, 48, 48),
        (70, 100, 100),
    ],
)
def test_the_cache_doubles_up_to_the_positions_of_the_model(
    tokens: int, positions: int, capacity: int
) -> None:
    assert contract.cache_capacity(tokens, positions) == capacity


def test_the_best_scores_are_enough_for_the_most_beams() -> None:
    assert contract.TOP_K >= 2 * contract.MAX_BEAMS


def test_there_are_three_graphs_and_no_name_twice() -> None:
    graphs = contract.graphs(BASE_SIZE, "float32")
    assert tuple(graphs) == contract.GRAPHS
    for name, graph in graphs.items():
        assert graph.name == name
        for tensors in (graph.inputs, graph.outputs):
            names = [tensor.name for tensor in tensors]
            assert len(set(names)) == len(names)


def test_what_the_text_encoder_gives_the_decoder_takes() -> None:
    graphs = contract.graphs(BASE_SIZE, "float16")
    given = set(graphs[contract.TEXT_ENCODER].outputs)
    assert given < set(graphs[contract.DECODER].inputs)
    assert len(given) == 2 * BASE_SIZE.decoder_layers


def test_every_self_cache_of_the_decoder_gets_its_new_row() -> None:
    decoder = contract.graphs(BASE_SIZE, "float16")[contract.DECODER]
    taken = {tensor.name: tensor for tensor in decoder.inputs}
    given = {tensor.name: tensor for tensor in decoder.outputs}
    for layer in range(BASE_SIZE.decoder_layers):
        for part in contract.PARTS:
            cache = taken[contract.self_cache(layer, part)]
            row = given[contract.new_row(layer, part)]
            assert cache.shape == ("R", 12, "S", 64)
            assert row.shape == ("R", 12, 1, 64)
            assert cache.dtype == row.dtype == "float16"


def test_scores_are_float32_but_for_the_whole_vocabulary() -> None:
    decoder = contract.graphs(BASE_SIZE, "float16")[contract.DECODER]
    dtypes = {tensor.name: tensor.dtype for tensor in decoder.outputs}
    assert dtypes["top_logits"] == dtypes["log_sum_exp"] == "float32"
    assert dtypes["logits"] == "float16"
