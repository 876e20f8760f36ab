"""Every graph against the original: transformers, and what Microsoft's own code gave.

Tolerances are in units of the standard deviation of the output.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from florence_edge import Florence2, GenerationOptions, contract
from florence_edge_export.export import ExportOptions, export

from ..helpers.assets import Asset
from . import folders
from .microsoft_twin import write_twin
from .parity import Pair, assert_equal, error, open_pair, pair_of, write_variant

pytest.importorskip("torch")
pytest.importorskip("transformers")

TOLERANCE = 1e-4

MAX_NEW_TOKENS = 24

# Each checkpoint with other beams; with all of them where there is time.
_SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def pair(tiny_checkpoint: Path, tiny_bundle: Path) -> Pair:
    return pair_of(tiny_checkpoint, tiny_bundle)


@pytest.fixture(scope="module")
def native_asset(asset: Asset, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return open_pair(asset("tiny-native-layout"), tmp_path_factory.mktemp("native") / "bundle", 192)


@pytest.fixture(scope="module")
def microsoft_asset(asset: Asset, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return open_pair(
        asset("tiny-microsoft-layout"), tmp_path_factory.mktemp("microsoft") / "bundle"
    )


@pytest.mark.parametrize("count", [1, 3])
def test_the_vision_encoder_equals_transformers(pair: Pair, count: int) -> None:
    assert pair.vision_error(count) < TOLERANCE


@pytest.mark.parametrize("lengths", [[1], [9], [3, 17, 8], [100]], ids=str)
def test_the_text_encoder_equals_transformers(pair: Pair, lengths: list[int]) -> None:
    """Also in a batch of prompts of unequal length, where each gets what it gets alone."""
    assert pair.text_error(lengths) < TOLERANCE


@pytest.mark.parametrize(
    ("lengths", "beams"), [([5], 1), ([5], 3), ([3, 14, 6], 2), ([4, 4], 8)], ids=str
)
def test_the_decoder_equals_transformers(pair: Pair, lengths: list[int], beams: int) -> None:
    assert pair.decoder_error(lengths, beams, steps=6) < TOLERANCE


def test_the_decoder_equals_transformers_when_its_cache_grows(pair: Pair) -> None:
    steps = 2 * contract.MIN_CACHE_CAPACITY + 3
    assert pair.decoder_error([4], 1, steps=steps) < TOLERANCE


def test_the_assets_graphs_equal_transformers(native_asset: Pair, microsoft_asset: Pair) -> None:
    for pair in (native_asset, microsoft_asset):
        assert pair.vision_error(1) < TOLERANCE
        assert pair.text_error([4, 11]) < TOLERANCE
        assert pair.decoder_error([4, 7], 2, steps=4) < TOLERANCE


@pytest.mark.parametrize("beams", [pytest.param(1, marks=_SLOW), 3, pytest.param(5, marks=_SLOW)])
def test_answers_to_all_15_tasks_equal_transformers(pair: Pair, beams: int) -> None:
    answers = [pair.answers(beams, MAX_NEW_TOKENS, scene) for scene in (11, 12)]
    assert_equal(answers)
    assert sum(len(several.verdicts) for several in answers) == 30


@pytest.mark.parametrize("beams", [pytest.param(1, marks=_SLOW), pytest.param(3, marks=_SLOW), 5])
def test_the_assets_answers_equal_transformers(native_asset: Pair, beams: int) -> None:
    assert_equal([native_asset.answers(beams, MAX_NEW_TOKENS)])


@pytest.mark.parametrize("beams", [1, pytest.param(3, marks=_SLOW), pytest.param(5, marks=_SLOW)])
def test_the_microsoft_assets_answers_equal_transformers(microsoft_asset: Pair, beams: int) -> None:
    answers = microsoft_asset.answers(beams, 12)
    assert_equal([answers])
    assert len(answers.verdicts) == 15


def test_answers_equal_generate_on_the_folder_itself(native_asset: Pair, asset: Asset) -> None:
    """The user's own path through transformers, with nothing of ours between."""
    import torch
    import transformers
    from PIL import Image

    folder = asset("tiny-native-layout")
    model = transformers.Florence2ForConditionalGeneration.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    picture = Image.fromarray(native_asset.noise(1, seed=2)[0])
    tokens = native_asset.model.bundle.size.image_tokens
    pixel_values = torch.from_numpy(native_asset.normalized(np.asarray(picture)[None]))
    verdicts = []
    for task, prompt in (
        ("CAPTION", "What does the image describe?"),
        ("OD", "Locate the objects with category name in the image."),
        ("OCR", "What is the text in the image?"),
    ):
        encoded = tokenizer("<image>" * tokens + "<s>" + prompt + "</s>", add_special_tokens=False)
        input_ids = torch.tensor([encoded["input_ids"]])
        for beams in (1, 3):
            with torch.inference_mode():
                expected = model.generate(
                    input_ids=input_ids,
                    pixel_values=pixel_values,
                    num_beams=beams,
                    max_new_tokens=MAX_NEW_TOKENS,
                    early_stopping=beams > 1,
                )[0].tolist()
            options = GenerationOptions(num_beams=beams, max_new_tokens=MAX_NEW_TOKENS)
            found = list(native_asset.model.run(picture, task, options=options).token_ids)
            verdicts.append((task, beams, found == expected))
    assert all(equal for *_, equal in verdicts), verdicts


# Microsoft's own code: recorded from `modeling_florence2.py` (transformers 4.49) on a photograph.
@pytest.fixture(scope="module")
def recorded(asset: Asset) -> dict[str, Any]:
    folder = asset("tiny-microsoft-layout")
    arrays = dict(np.load(folder / "reference.npz"))
    text = json.loads((folder / "reference.json").read_text(encoding="utf-8"))
    return {"arrays": arrays, "prompts": text["prompts"]}


@pytest.fixture(scope="module")
def pixels(recorded: dict[str, Any]) -> Any:
    """The picture itself is not at hand; its normalized values are, and give the bytes back."""
    values = recorded["arrays"]["pixel_values"].transpose(0, 2, 3, 1)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    scaled = (values * np.array(std) + np.array(mean)) * 255
    rounded = np.rint(scaled).astype(np.uint8)
    assert np.abs(scaled - rounded).max() < 1e-3
    return rounded


def test_image_features_equal_those_of_microsofts_own_code(
    microsoft_asset: Pair, recorded: dict[str, Any], pixels: Any
) -> None:
    features = microsoft_asset.model.backend.encode_image(pixels)
    assert error(features, recorded["arrays"]["image_features"]) < TOLERANCE


def test_prompts_equal_those_of_microsofts_own_code(
    microsoft_asset: Pair, recorded: dict[str, Any]
) -> None:
    for asked, expected in recorded["prompts"].items():
        task, text = _split(asked)
        view = microsoft_asset.model.encode(microsoft_asset.noise(1)[0])
        assert microsoft_asset.prompt_ids(view, task, text) == expected["input_ids"]


def test_log_probabilities_equal_those_of_microsofts_own_code(
    microsoft_asset: Pair, recorded: dict[str, Any], pixels: Any
) -> None:
    backend = microsoft_asset.model.backend
    features = backend.encode_image(pixels)
    for expected in recorded["prompts"].values():
        decoder = backend.prefill(features, *_one_prompt(features, expected), beams=1)
        rows = []
        for token in expected["decoder_input_ids"]:
            (scores,) = decoder.step(np.array([[token]]), np.zeros((1, 1), dtype=np.int64))
            rows.append(scores.full()[0].copy())
        logits = recorded["arrays"][f"{expected['key']}_logits"][0]
        found = np.array(rows, dtype=np.float64)
        if logits.shape[-1] == found.shape[-1]:
            wanted = logits - np.log(np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))
        else:  # only part of the vocabulary was recorded: compare up to the normalization
            every = _recorded_ids(found.shape[-1], logits.shape[-1])
            found, wanted = found[:, every], logits
            found = found - found.mean(axis=-1, keepdims=True)
            wanted = wanted - wanted.mean(axis=-1, keepdims=True)
        assert error(found, wanted) < TOLERANCE


@pytest.mark.parametrize(("beams", "name"), [(1, "greedy"), (3, "beam3")])
def test_token_ids_equal_those_of_microsofts_own_code(
    microsoft_asset: Pair,
    recorded: dict[str, Any],
    pixels: Any,
    beams: int,
    name: str,
) -> None:
    from florence_edge.generate import generate

    backend = microsoft_asset.model.backend
    features = backend.encode_image(pixels)
    for expected in recorded["prompts"].values():
        options = GenerationOptions(num_beams=beams, max_new_tokens=len(expected[name]) - 1)
        decoder = backend.prefill(features, *_one_prompt(features, expected), beams=beams)
        generation = microsoft_asset.model.generation_config(options)
        (hypothesis,) = generate(decoder, generation, images=1)
        assert list(hypothesis.token_ids) == expected[name]


def test_the_twins_bundle_has_the_same_graphs_and_weights(
    tiny_checkpoint: Path, microsoft_checkpoint: Path, tmp_path: Path
) -> None:
    """What is proven for one layout holds for the other."""
    export("x", tiny_checkpoint, tmp_path / "native", ExportOptions())
    export("x", microsoft_checkpoint, tmp_path / "microsoft", ExportOptions())
    for name in ("weights.bin", *(f"{graph}.onnx" for graph in contract.GRAPHS)):
        native = (tmp_path / "native" / name).read_bytes()
        assert native == (tmp_path / "microsoft" / name).read_bytes()


def test_a_final_logits_bias_is_honoured(microsoft: Path, tmp_path: Path) -> None:
    tensors = folders.read(microsoft)
    bias = np.random.default_rng(0).standard_normal((1, 2560)).astype(np.float32) * 3
    tensors["language_model.final_logits_bias"] = bias
    folders.write(microsoft, tensors)
    pair = open_pair(microsoft, tmp_path / "bundle")
    assert pair.decoder_error([4], 2, steps=4) < TOLERANCE
    assert_equal([pair.answers(3, MAX_NEW_TOKENS)])
    without = tensors | {"language_model.final_logits_bias": np.zeros_like(bias)}
    folders.write(microsoft, without)
    plain = open_pair(microsoft, tmp_path / "plain")
    assert _first_scores(pair.model).argmax() != _first_scores(plain.model).argmax()


# What config.json may say, each alone; together they are tried in `_TOGETHER`, in fewer exports.
_VARIANTS: dict[str, tuple[Callable[[dict[str, Any]], object], int]] = {
    "96 pixels: windows are padded": (lambda c: None, 96),
    "160 pixels: windows are padded": (lambda c: None, 160),
    "192 pixels: some are, some are not": (lambda c: None, 192),
    "windows of 5": (lambda c: c["vision_config"].update(window_size=5), 96),
    "scaled embedding": (lambda c: c["text_config"].update(scale_embedding=True), 64),
    "tanh gelu": (lambda c: _activation(c, "gelu_pytorch_tanh"), 64),
    "gelu_new": (lambda c: _activation(c, "gelu_new"), 64),
    "relu": (lambda c: _activation(c, "relu"), 64),
    "silu": (lambda c: _activation(c, "silu"), 64),
    "qkv without bias": (lambda c: c["vision_config"].update(qkv_bias=False), 64),
    "norms after the convolutions": (
        lambda c: c["vision_config"].update(patch_prenorm=[False] * 4),
        64,
    ),
    "narrow MLP": (lambda c: c["vision_config"].update(mlp_ratio=1.5), 64),
    "groups unlike heads": (lambda c: c["vision_config"].update(num_groups=[4, 8, 8, 2]), 64),
    "other depths": (lambda c: c["vision_config"].update(depths=[2, 1, 1, 2]), 64),
    "other patches": (
        lambda c: c["vision_config"].update(
            patch_size=[4, 2, 3, 3], patch_padding=[0, 0, 1, 1], patch_stride=[4, 2, 2, 2]
        ),
        64,
    ),
    "three stages": (lambda c: _three_stages(c["vision_config"]), 64),
    "encoder unlike decoder": (
        lambda c: c["text_config"].update(
            encoder_layers=1, decoder_layers=3, encoder_attention_heads=2, decoder_ffn_dim=96
        ),
        64,
    ),
    "few positions": (lambda c: c["text_config"].update(max_position_embeddings=80), 64),
    "padded vocabulary": (lambda c: c["text_config"].update(vocab_size=2624), 64),
}


_TOGETHER = (
    ("96 pixels: windows are padded", "windows of 5", "qkv without bias", "gelu_new"),
    ("192 pixels: some are, some are not", "narrow MLP", "padded vocabulary", "few positions"),
    ("norms after the convolutions", "groups unlike heads", "scaled embedding", "relu"),
    ("other depths", "other patches", "encoder unlike decoder", "silu"),
    ("three stages", "tanh gelu"),
)


@pytest.mark.parametrize(
    "variants",
    [*_TOGETHER, *(pytest.param((each,), marks=_SLOW) for each in _VARIANTS)],
    ids=", ".join,
)
def test_what_config_json_says_is_built(
    tiny_checkpoint: Path, tmp_path: Path, variants: tuple[str, ...]
) -> None:
    def edit(config: dict[str, Any]) -> None:
        for variant in variants:
            _VARIANTS[variant][0](config)

    image_size = _VARIANTS[variants[0]][1]
    folder = write_variant(tiny_checkpoint, tmp_path / "variant", edit)
    pair = open_pair(folder, tmp_path / "bundle", image_size)
    assert pair.vision_error(2) < TOLERANCE
    assert pair.text_error([3, 9]) < TOLERANCE
    assert pair.decoder_error([3, 9], 2, steps=3) < TOLERANCE


@pytest.mark.parametrize(
    "sources",
    [
        ["spatial_avg_pool"],
        pytest.param(["temporal_avg_pool"], marks=_SLOW),
        pytest.param(["last_frame"], marks=_SLOW),
        pytest.param(["temporal_avg_pool", "spatial_avg_pool"], marks=_SLOW),
        ["spatial_avg_pool", "temporal_avg_pool", "last_frame"],
    ],
    ids=str,
)
def test_image_feature_sources_of_microsofts_layout(
    pair: Pair, microsoft: Path, tmp_path: Path, sources: list[str]
) -> None:
    """Of one frame, the temporal mean and the last frame are that frame's tokens."""

    def state(config: dict[str, Any]) -> None:
        config["vision_config"]["image_feature_source"] = sources

    folders.edit_config(microsoft, state)
    export("x", microsoft, tmp_path / "bundle", ExportOptions())
    found = Florence2.load(tmp_path / "bundle", threads=1).backend.encode_image(pair.noise(2))
    both = pair.features(2)
    parts = {"spatial_avg_pool": both[:, :1]}
    expected = [parts.get(source, both[:, 1:]) for source in sources]
    assert error(found, np.concatenate(expected, axis=1)) < TOLERANCE


def test_a_twin_of_another_image_size_equals_transformers(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    pair = open_pair(write_twin(tiny_checkpoint, tmp_path / "twin"), tmp_path / "bundle", 96)
    assert pair.vision_error(1) < TOLERANCE
    assert_equal([pair.answers(3, MAX_NEW_TOKENS)])


def test_other_normalizations_are_in_the_graph(native: Path, tmp_path: Path) -> None:
    folders.edit_json(
        native / "preprocessor_config.json",
        lambda c: c.update(image_mean=[0.1, 0.5, 0.9], image_std=[0.3, 0.5, 0.1]),
    )
    assert open_pair(native, tmp_path / "bundle").vision_error(1) < TOLERANCE


def _split(asked: str) -> tuple[str, str | None]:
    task, _, text = asked.partition(">")
    return f"{task}>", text or None


def _one_prompt(features: Any, expected: dict[str, Any]) -> tuple[Any, Any]:
    input_ids = np.array([expected["input_ids"]], dtype=np.int64)
    return input_ids, np.ones((1, features.shape[1] + input_ids.shape[1]), dtype=np.int64)


def _recorded_ids(vocabulary: int, recorded: int) -> Any:
    every = np.arange(0, vocabulary, 64)
    assert len(every) == recorded
    return every


def _first_scores(model: Florence2) -> Any:
    size = model.bundle.size
    features = np.zeros((1, size.image_tokens, size.d_model), dtype=np.float32)
    mask = np.ones((1, size.image_tokens + 2), dtype=np.int64)
    decoder = model.backend.prefill(features, np.array([[0, 2]]), mask, beams=1)
    (scores,) = decoder.step(np.array([[2]]), np.zeros((1, 1), dtype=np.int64))
    return scores.full()[0].copy()


def _activation(config: dict[str, Any], name: str) -> None:
    config["vision_config"]["activation_function"] = name
    config["text_config"]["activation_function"] = name


def _three_stages(vision: dict[str, Any]) -> None:
    vision.update(
        embed_dim=[16, 32, 64],
        num_heads=[2, 4, 8],
        num_groups=[2, 4, 8],
        depths=[1, 1, 1],
        patch_size=[7, 3, 3],
        patch_stride=[4, 4, 2],
        patch_padding=[3, 1, 1],
        patch_prenorm=[False, True, True],
    )
