import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from florence_edge import BackendError, BundleError, BundleNotFoundError, Florence2, RequestError
from florence_edge.bundle import Bundle
from florence_edge.contract import CONTRACT_VERSION, GRAPHS

from ..helpers.manifests import Edit, edit_manifest, write_hash
from ..helpers.not_a_file import NOT_A_FILE, put_in_place_of

Manifest = dict[str, Any]


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def test_a_bundle_says_what_its_manifest_says(tiny_bundle: Path) -> None:
    manifest = json.loads((tiny_bundle / "manifest.json").read_text(encoding="utf-8"))
    bundle = Bundle.load(str(tiny_bundle))
    assert bundle.folder == tiny_bundle
    assert (bundle.model, bundle.precision, bundle.target) == ("tiny", "fp32", "any")
    assert {name: getattr(bundle.size, name) for name in manifest["size"]} == manifest["size"]
    assert bundle.generation.num_beams == manifest["generation"]["num_beams"]
    assert set(bundle.files) == {path.name for path in tiny_bundle.iterdir()} - {"manifest.json"}
    bundle.check_content()


def test_what_a_newer_export_adds_to_the_manifest_is_ignored(bundle: Path) -> None:
    before = Bundle.load(bundle)

    def add(manifest: Manifest) -> None:
        manifest["new"] = 1
        manifest["size"]["new"] = 1
        manifest["files"]["tokenizer.json"]["new"] = 1

    edit_manifest(bundle, add)
    assert Bundle.load(bundle) == before


@pytest.mark.parametrize("version", [CONTRACT_VERSION + 1, None, "1", True])
def test_another_contract_version_is_refused(bundle: Path, version: object) -> None:
    edit_manifest(bundle, lambda manifest: manifest.update(contract=version))
    expected = rf"contract {version!r}, this runtime speaks {CONTRACT_VERSION}\. Export it again"
    with pytest.raises(BundleError, match=expected):
        Bundle.load(bundle)


@pytest.mark.parametrize("name", [*(f"{graph}.onnx" for graph in GRAPHS), "weights.bin"])
def test_a_missing_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=rf"lacks {name}, .* Copy the whole folder"):
        Florence2.load(bundle)


def test_a_file_of_another_size_is_named(bundle: Path) -> None:
    with (bundle / "weights.bin").open("ab") as file:
        file.write(b"!")
    with pytest.raises(BundleError, match=r"weights\.bin has \d+ bytes, expected \d+"):
        Florence2.load(bundle)


def test_a_file_changed_within_its_size_is_found_by_its_hash(bundle: Path) -> None:
    path = bundle / "weights.bin"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"weights\.bin is not what was exported"):
        Bundle.load(bundle).check_content()


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_graph_that_is_none_is_named(bundle: Path, graph: str) -> None:
    path = bundle / f"{graph}.onnx"
    path.write_bytes(b"\xff" * path.stat().st_size)
    write_hash(bundle, path.name)
    expected = rf"{graph}\.onnx is not a graph that florence-export writes: .* the bundle again"
    with pytest.raises(BundleError, match=expected):
        Florence2.load(bundle, threads=1)


def test_a_graph_of_another_contract_is_named(bundle: Path) -> None:
    shutil.copy(bundle / "text_encoder.onnx", bundle / "decoder.onnx")
    edit_manifest(
        bundle,
        lambda manifest: manifest["files"].update(
            {"decoder.onnx": manifest["files"]["text_encoder.onnx"]}
        ),
    )
    with pytest.raises(BackendError, match=r"inputs of .*decoder\.onnx are not those of contract"):
        Florence2.load(bundle, threads=1)


def test_a_tokenizer_that_is_none_is_named(bundle: Path) -> None:
    path = bundle / "tokenizer.json"
    path.write_bytes(b"?" * path.stat().st_size)
    write_hash(bundle, path.name)
    with pytest.raises(BundleError, match=r"tokenizer\.json is not a tokenizer"):
        Florence2.load(bundle)


@pytest.mark.parametrize(
    "edit",
    [
        lambda manifest: manifest.pop("model"),
        lambda manifest: manifest.update(model="tiny"),
        lambda manifest: manifest.pop("size"),
        lambda manifest: manifest.update(size=[1, 2]),
        lambda manifest: manifest["size"].pop("d_model"),
        lambda manifest: manifest["size"].update(image_size="64"),
        lambda manifest: manifest["size"].update(decoder_heads=None),
        lambda manifest: manifest["generation"].pop("eos_token_id"),
        lambda manifest: manifest["generation"].update(num_beams="3"),
        lambda manifest: manifest["generation"].update(length_penalty="1"),
        lambda manifest: manifest["generation"].update(early_stopping="soon"),
        lambda manifest: manifest.update(files=[]),
        lambda manifest: manifest.update(files=None),
        lambda manifest: manifest["files"].update({"tokenizer.json": 5}),
        lambda manifest: manifest["files"]["tokenizer.json"].update(bytes="12"),
    ],
)
def test_a_garbled_field_is_refused(bundle: Path, edit: Edit) -> None:
    edit_manifest(bundle, edit)
    with pytest.raises(BundleError, match=r"manifest\.json is not one that florence-export writes"):
        Bundle.load(bundle)


@pytest.mark.parametrize("name", ["decoder.onnx", "tokenizer.json"])
def test_a_manifest_must_list_what_a_device_needs(bundle: Path, name: str) -> None:
    edit_manifest(bundle, lambda manifest: manifest["files"].pop(name))
    with pytest.raises(BundleError, match=f"does not list {name}"):
        Bundle.load(bundle)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[1]", "is not a manifest"),
        (b"[" * 100_000, "cannot be read: nested too deeply"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "cannot be read: nested too deeply"),
        (b" " * (2 << 20), "cannot be read: larger than 1048576 bytes"),
        (b'{"contract": NaN}', "cannot be read"),
        (b'{"contract": 1e999}', "cannot be read"),
    ],
)
def test_a_manifest_that_is_none_is_refused(bundle: Path, content: bytes, message: str) -> None:
    (bundle / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=rf"manifest\.json {message}.* Copy the bundle again, or"):
        Bundle.load(bundle)


def test_where_nothing_is_there_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(
        BundleNotFoundError, match=r"no bundle at .*nowhere\. Make one: florence-export"
    ):
        Bundle.load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["a\0b", "nowhere\0"])
def test_a_name_that_nothing_can_have_is_no_bundle(name: str) -> None:
    with pytest.raises(BundleNotFoundError, match="There is no bundle at"):
        Bundle.load(name)


def test_the_root_of_the_disk_is_no_bundle() -> None:
    with pytest.raises(BundleError, match=r"has no manifest\.json"):
        Bundle.load("/")


def test_a_file_is_no_bundle(bundle: Path) -> None:
    with pytest.raises(BundleError, match="no bundle at"):
        Bundle.load(bundle / "manifest.json")


def test_a_checkpoint_is_no_bundle_and_the_message_says_how_to_export_it(
    tiny_checkpoint: Path,
) -> None:
    expected = rf"it has no manifest\.json.*florence-export {tiny_checkpoint} --output BUNDLE"
    with pytest.raises(BundleError, match=expected):
        Bundle.load(tiny_checkpoint)


def test_an_engine_that_the_bundle_was_not_made_for_is_refused(tiny_bundle: Path) -> None:
    bundle = replace(Bundle.load(tiny_bundle), target="tensorrt")
    with pytest.raises(BackendError, match="made for tensorrt and does not run on cpu"):
        bundle.check_engine("cpu")
    bundle.check_engine("tensorrt")


@pytest.mark.parametrize(
    "device",
    ["", "gpu", "CPU", "cpu:", "cpu:1", "cuda:", "cuda:x", "cuda:²", "cuda:-1", "cuda:0:0"],
)
def test_a_device_that_does_not_exist_is_refused_with_a_list(
    tiny_bundle: Path, device: str
) -> None:
    with pytest.raises(RequestError, match=rf"no device '{device}'.* cpu, cuda, cuda:N"):
        Florence2.load(tiny_bundle, device)


def test_cuda_where_there_is_none_is_an_error_and_no_fallback(tiny_bundle: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime knows CUDA")
    with pytest.raises(BackendError, match=r"CUDA did not become active .*pip install .*\[gpu\]"):
        Florence2.load(tiny_bundle, "cuda")


@pytest.mark.parametrize("threads", [0, -3])
def test_a_number_of_threads_that_cannot_be_is_refused(tiny_bundle: Path, threads: int) -> None:
    with pytest.raises(RequestError, match=f"threads is {threads}; it must be 1 to 1024"):
        Florence2.load(tiny_bundle, threads=threads)


def test_a_changed_graph_of_the_same_size_is_noticed_when_the_bundle_is_loaded(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, copy)
    graph = copy / "decoder.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 0xFF
    graph.write_bytes(content)
    with pytest.raises(BundleError, match=r"decoder\.onnx is not what was exported"):
        Bundle.load(copy)


def test_an_edited_manifest_is_refused_and_the_message_says_what_to_do_instead(
    bundle: Path,
) -> None:
    path = bundle / "manifest.json"
    path.write_text(path.read_text().replace('"num_beams": 3', '"num_beams": 2'))
    with pytest.raises(BundleError, match=r"does not fit its digest\. To generate in another way"):
        Bundle.load(bundle)


@pytest.mark.parametrize("digest", [None, 5, "0" * 64])
def test_a_manifest_needs_its_digest(bundle: Path, digest: object) -> None:
    path = bundle / "manifest.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["digest"]
    path.write_text(json.dumps(content if digest is None else {**content, "digest": digest}))
    with pytest.raises(BundleError, match="does not fit its digest"):
        Bundle.load(bundle)


def test_the_layout_of_a_manifest_is_free(bundle: Path) -> None:
    before, path = Bundle.load(bundle), bundle / "manifest.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    turned = dict(reversed(content.items()))
    path.write_text(json.dumps(turned, separators=(",", ":"), ensure_ascii=True))
    assert Bundle.load(bundle) == before


def test_no_bit_of_a_manifest_can_flip(bundle: Path) -> None:
    before, path = Bundle.load(bundle), bundle / "manifest.json"
    content = path.read_bytes()
    for at in range(len(content)):
        bit = at % 8
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
        try:
            found = Bundle.load(bundle)
        except BundleError:
            continue
        assert found == before, f"bit {bit} of byte {at}"  # the case of an exponent's E


def _sizes(**values: object) -> Edit:
    return lambda manifest: manifest["size"].update(values)


def _tokens(**values: object) -> Edit:
    return lambda manifest: manifest["generation"].update(values)


@pytest.mark.parametrize(
    "edit",
    [
        _sizes(decoder_layers=10**9),
        _sizes(decoder_layers=0),
        _sizes(decoder_heads=0),
        _sizes(decoder_heads=3),
        _sizes(image_size=-1),
        _sizes(image_tokens=10**12),
        _sizes(vocab_size=2**31),
        _sizes(vocab_size=8),
        _sizes(decoder_positions=10**9),
        _sizes(encoder_positions=4),
        _sizes(d_model=1e18),
        _sizes(d_model=True),
        _tokens(bos_token_id=-1),
        _tokens(pad_token_id=2**31),
        _tokens(decoder_start_token_id=10**30),
        _tokens(eos_token_id=True),
        _tokens(forced_bos_token_id=True),
        _tokens(forced_eos_token_id=10**6),
        _tokens(num_beams=True),
        _tokens(length_penalty=1e300),
        lambda manifest: manifest.update(tensorrt_decoders=64),
        lambda manifest: manifest.update(floats="float128"),
        lambda manifest: manifest.update(precision="fp4"),
        lambda manifest: manifest["files"].update({"../x": manifest["files"]["weights.bin"]}),
        lambda manifest: manifest["files"].update({"/etc/passwd": {"bytes": 1, "sha256": ""}}),
        lambda manifest: manifest["files"].update({"a\0b": {"bytes": 1, "sha256": ""}}),
        lambda manifest: manifest["files"].update({"..": {"bytes": 1, "sha256": ""}}),
    ],
)
def test_what_no_model_has_is_refused_at_once(bundle: Path, edit: Edit) -> None:
    edit_manifest(bundle, edit)
    with pytest.raises(BundleError, match=r"manifest\.json is not one that florence-export writes"):
        Bundle.load(bundle)


@pytest.mark.parametrize("name", ["manifest.json", "tokenizer.json", "decoder.onnx", "weights.bin"])
@pytest.mark.parametrize("kind", NOT_A_FILE)
def test_what_is_not_a_file_is_refused_at_once(bundle: Path, name: str, kind: str) -> None:
    put_in_place_of(bundle / name, kind)
    with pytest.raises(BundleError, match=r"is not a file|is a folder|is a named pipe|is a device"):
        Bundle.load(bundle)


def test_a_bundle_that_was_being_replaced_when_the_run_was_killed_is_put_back(
    bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle.rename(bundle.with_name(f".{bundle.name}.florence-old"))
    assert Bundle.load(bundle).model == "tiny"
    assert "is there again as it was" in caplog.text
