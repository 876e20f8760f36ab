import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from florence_edge import contract
from florence_edge.bundle import Bundle, StoredFile
from florence_edge.errors import BackendError
from florence_edge.tensorrt.find import build_command, engines_root, find_engines
from florence_edge.tensorrt.manifest import (
    ENGINE_MANIFEST,
    LAYOUT_VERSION,
    EngineManifest,
    TargetDevice,
    fingerprint,
    plan_name,
    read_manifest,
    read_plan,
    sources,
    write_manifest,
)
from florence_edge.tensorrt.profiles import EngineOptions, profiles

from ..helpers.engines import ORIN
from ..helpers.manifests import edit_manifest
from ..helpers.not_a_file import NOT_A_FILE, put_in_place_of

AHEAD_OF_TIME = TargetDevice(
    gpu=None,
    multiprocessors=None,
    compute_capability="8.9",
    flavour="tensorrt_rtx",
    tensorrt="1.7.1.116",
    driver=None,
    l4t=None,
)
DEFAULT = EngineOptions()


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Bundle:
    return Bundle.load(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def manifest_of(bundle: Bundle, device: TargetDevice, options: EngineOptions) -> EngineManifest:
    return EngineManifest(
        layout=LAYOUT_VERSION,
        producer="florence-edge test",
        model=bundle.model,
        precision=bundle.precision,
        device=device,
        options=options,
        sources=sources(bundle, options),
        plans={plan_name(graph): StoredFile(4, "0" * 64) for graph in contract.GRAPHS},
    )


def place(
    bundle: Bundle,
    device: TargetDevice = ORIN,
    options: EngineOptions = DEFAULT,
    root: Path | None = None,
) -> Path:
    """Engines of four bytes each, with their manifest."""
    folder = engines_root(bundle, root) / fingerprint(bundle, device, options)
    folder.mkdir(parents=True)
    for graph in contract.GRAPHS:
        (folder / plan_name(graph)).write_bytes(b"plan")
    write_manifest(folder, manifest_of(bundle, device, options))
    return folder


def test_a_manifest_comes_back_as_it_was_written(bundle: Bundle) -> None:
    assert read_manifest(place(bundle)) == manifest_of(bundle, ORIN, DEFAULT)


def test_the_fingerprint_is_short_hexadecimal_and_stable(bundle: Bundle) -> None:
    name = fingerprint(bundle, ORIN, DEFAULT)
    assert name == fingerprint(bundle, replace(ORIN), EngineOptions())
    assert len(name) == 16
    assert int(name, 16) >= 0


@pytest.mark.parametrize(
    "change",
    [
        {"gpu": "NVIDIA H200"},
        {"multiprocessors": 8},
        {"compute_capability": "9.0"},
        {"flavour": "tensorrt_rtx"},
        {"tensorrt": "10.16.2"},
        {"l4t": None},
    ],
)
def test_what_engines_are_tied_to_changes_the_fingerprint(
    bundle: Bundle, change: dict[str, str]
) -> None:
    other = replace(ORIN, **change)  # type: ignore[arg-type]
    assert fingerprint(bundle, other, DEFAULT) != fingerprint(bundle, ORIN, DEFAULT)


def test_other_graphs_or_options_change_the_fingerprint_and_a_new_driver_does_not(
    bundle: Bundle,
) -> None:
    default = fingerprint(bundle, ORIN, DEFAULT)
    assert fingerprint(bundle, ORIN, EngineOptions(beams=1)) != default
    files = {**bundle.files, "weights.bin": StoredFile(1, "f" * 64)}
    assert fingerprint(replace(bundle, files=files), ORIN, DEFAULT) != default
    assert fingerprint(bundle, replace(ORIN, driver="13.0"), DEFAULT) == default


def test_engines_are_found_with_their_plans_and_profiles(bundle: Bundle) -> None:
    folder = place(bundle)
    found = find_engines(bundle, ORIN)
    assert found.folder == folder
    assert found.plan(contract.DECODER).read_bytes() == b"plan"
    assert found.profiles == profiles(bundle.size, DEFAULT)


def test_engines_are_found_in_a_folder_of_their_own(bundle: Bundle, tmp_path: Path) -> None:
    folder = place(bundle, root=tmp_path / "elsewhere")
    assert find_engines(bundle, ORIN, engine_dir=tmp_path / "elsewhere").folder == folder
    with pytest.raises(BackendError, match=r"no TensorRT engines in .*bundle/engines"):
        find_engines(bundle, ORIN)


def test_a_build_under_way_is_not_found(bundle: Bundle) -> None:
    place(bundle).rename(engines_root(bundle) / ".building-1")
    with pytest.raises(BackendError, match="no TensorRT engines"):
        find_engines(bundle, ORIN)


def test_without_engines_the_message_says_what_to_run(bundle: Bundle) -> None:
    needs = EngineOptions(beams=5, max_new_tokens=100)
    with pytest.raises(BackendError) as raised:
        find_engines(bundle, ORIN, needs=needs)
    assert str(raised.value).endswith(f"Run: florence-build {bundle.folder} --beams 5")


@pytest.mark.parametrize(
    ("device", "difference"),
    [
        (replace(ORIN, gpu="NVIDIA H200"), "GPU Orin, here NVIDIA H200"),
        (replace(ORIN, multiprocessors=8), "multiprocessors 16, here 8"),
        (replace(ORIN, compute_capability="9.0"), r"compute capability 8\.7, here 9\.0"),
        (replace(ORIN, tensorrt="10.16.2"), r"TensorRT tensorrt 10\.3\.0, here tensorrt 10\.16\.2"),
        (replace(ORIN, l4t="36.4.4"), r"L4T 36\.4\.3, here 36\.4\.4"),
        (replace(ORIN, l4t=None), r"L4T 36\.4\.3, here none"),
    ],
)
def test_engines_of_another_device_are_refused_with_the_difference(
    bundle: Bundle, device: TargetDevice, difference: str
) -> None:
    place(bundle)
    with pytest.raises(BackendError, match=rf"built for: {difference}\. Run: florence-build"):
        find_engines(bundle, device)


def test_engines_of_other_graphs_are_refused_by_their_names(bundle: Bundle) -> None:
    place(bundle)
    files = {**bundle.files, "weights.bin": StoredFile(1, "f" * 64)}
    with pytest.raises(BackendError, match=r"another weights\.bin than the bundle's"):
        find_engines(replace(bundle, files=files), ORIN)


def test_a_new_driver_is_no_reason_to_refuse(bundle: Bundle) -> None:
    folder = place(bundle)
    assert find_engines(bundle, replace(ORIN, driver="12.9")).folder == folder


def test_engines_built_ahead_of_time_serve_every_gpu_of_their_capability(bundle: Bundle) -> None:
    folder = place(bundle, AHEAD_OF_TIME)
    here = replace(AHEAD_OF_TIME, gpu="NVIDIA L4", multiprocessors=58, driver="13.0")
    assert find_engines(bundle, here).folder == folder
    with pytest.raises(BackendError, match=r"compute capability 8\.9, here 8\.6"):
        find_engines(bundle, replace(here, compute_capability="8.6"))


def test_asking_for_more_than_was_built_names_it_and_the_command(bundle: Bundle) -> None:
    place(bundle)
    needs = EngineOptions(batch=2, beams=5, max_new_tokens=300)
    with pytest.raises(BackendError) as raised:
        find_engines(bundle, ORIN, needs=needs)
    message = str(raised.value)
    assert "batch 1, needed 2; beams 3, needed 5; tokens 256, needed 300" in message
    assert message.endswith("--batch 2 --beams 5 --max-new-tokens 300")


def test_loaded_engines_refuse_a_request_beyond_them(bundle: Bundle) -> None:
    place(bundle)
    engines = find_engines(bundle, ORIN)
    engines.check(batch=1, beams=3, tokens=256)
    with pytest.raises(BackendError, match=r"beams 3, needed 4\. Run: florence-build .*--beams 4"):
        engines.check(beams=4)


def test_the_smallest_engines_that_serve_are_taken(bundle: Bundle) -> None:
    place(bundle, options=EngineOptions(batch=8))
    place(bundle, options=EngineOptions(beams=1))
    place(bundle, options=EngineOptions(max_new_tokens=128))
    default = place(bundle)
    needs = EngineOptions(beams=2, max_new_tokens=10)
    assert find_engines(bundle, ORIN, needs=needs).folder == default


def test_without_needs_the_beams_of_the_checkpoint_come_first_and_greedy_will_do(
    bundle: Bundle,
) -> None:
    assert bundle.generation.num_beams == 3
    greedy = place(bundle, options=EngineOptions(beams=1))
    assert find_engines(bundle, ORIN).folder == greedy
    default = place(bundle)
    assert find_engines(bundle, ORIN).folder == default


def test_the_nearest_of_several_is_named(bundle: Bundle) -> None:
    place(bundle, replace(ORIN, gpu="Thor", compute_capability="11.0", l4t="38.4"))
    near = place(bundle, replace(ORIN, tensorrt="10.7"))
    with pytest.raises(BackendError, match=f"nearest \\({near.name}\\).*TensorRT tensorrt 10.7"):
        find_engines(bundle, ORIN)


@pytest.mark.parametrize(
    "damage", ["cut", "missing", "garbled", "nested", "edited", "digest", "layout", "field"]
)
def test_damaged_engines_are_passed_over_with_a_warning(
    bundle: Bundle, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    folder = place(bundle)
    manifest = folder / ENGINE_MANIFEST
    if damage == "cut":
        (folder / plan_name(contract.DECODER)).write_bytes(b"p")
    elif damage == "missing":
        (folder / plan_name(contract.DECODER)).unlink()
    elif damage == "garbled":
        manifest.write_text("{")
    elif damage == "nested":
        manifest.write_text("[" * 100_000)
    elif damage == "edited":
        manifest.write_text(manifest.read_text().replace('"batch": 1', '"batch": 8'))
    elif damage == "digest":
        manifest.write_text(manifest.read_text().replace('"digest"', '"other"'))
    elif damage == "layout":
        edit_manifest(
            folder, lambda content: content.update(layout=LAYOUT_VERSION + 1), ENGINE_MANIFEST
        )
    else:
        edit_manifest(folder, lambda content: content.update(device={"gpu": "O"}), ENGINE_MANIFEST)
    with pytest.raises(BackendError, match="There are no TensorRT engines"):
        find_engines(bundle, ORIN)
    assert "cannot be used" in caplog.text
    assert f"florence-build {bundle.folder} --refresh" in caplog.text


def test_damaged_engines_are_not_spoken_of_where_others_fit(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    """Those of an older layout stay in the bundle; the warning would come at every load."""
    folder = place(bundle)
    older = folder.with_name("0" * 16)
    shutil.copytree(folder, older)
    edit_manifest(older, lambda content: content.update(layout=1), ENGINE_MANIFEST)
    assert find_engines(bundle, ORIN).folder == folder
    assert caplog.records == []


def test_no_bit_of_an_engine_manifest_can_flip(bundle: Bundle) -> None:
    folder = place(bundle)
    path = folder / ENGINE_MANIFEST
    content, before = path.read_bytes(), read_manifest(folder)
    for at in range(len(content)):
        flipped = bytes([content[at] ^ 1 << at % 8])
        path.write_bytes(content[:at] + flipped + content[at + 1 :])
        try:
            assert read_manifest(folder) == before
        except BackendError:
            continue


@pytest.mark.parametrize("kind", NOT_A_FILE)
def test_a_plan_that_is_no_file_is_refused_at_once(bundle: Bundle, kind: str) -> None:
    folder = place(bundle)
    put_in_place_of(folder / plan_name(contract.DECODER), kind)
    with pytest.raises(BackendError, match=r"cannot be used: .*it is a "):
        read_plan(folder, manifest_of(bundle, ORIN, DEFAULT), contract.DECODER)


def test_the_command_leaves_out_what_is_the_default(bundle: Bundle, tmp_path: Path) -> None:
    default = engines_root(bundle)
    assert build_command(bundle, EngineOptions(), default) == f"florence-build {bundle.folder}"
    longer = build_command(bundle, EngineOptions(max_new_tokens=512), tmp_path)
    assert longer.endswith(f"--max-new-tokens 512 --engine-dir {tmp_path}")
