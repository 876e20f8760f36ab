#!/usr/bin/env bash
# Does florence-edge install and answer on arm64? Shown without a Jetson, in two parts:
#
#   1. The wheel and what it needs (base and [cpu]) resolve from PyPI to arm64 wheels alone, for the
#      Python of JetPack 6 (3.10) and of JetPack 7 (3.12).
#   2. Debian's own arm64 Python 3.11 runs such wheels under QEMU: the miniature, in float32 and in
#      int8, answers three tasks on ONNX Runtime there, and its answers are compared with this
#      machine's.
#
#   jetson/check_arm64.sh [--resolve-only] [--work DIR] [--output FILE]
#
# Runs on x86-64 Debian or Ubuntu with apt, pip and florence-export (extra `export`); no root. Takes
# some minutes and 300 MB of downloads. QEMU 8 or newer is needed (7.2 crashes ONNX Runtime), so it
# is taken from Debian 13. The last result: results/devices/arm64_check.json.
set -euo pipefail

fail() {
    echo "check_arm64.sh: $1" >&2
    exit 1
}

source=$(cd "$(dirname "$0")/.." && pwd)
resolve_only=no work="" output=""
while [ $# -gt 0 ]; do
    case $1 in
        --resolve-only) resolve_only=yes ;;
        --work) work=${2:?--work needs a folder} && shift ;;
        --output) output=${2:?--output needs a file} && shift ;;
        -h | --help) sed -n '2,14s/^# \{0,1\}//p' "$0" && exit 0 ;;
        *) sed -n '2,14s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
    esac
    shift
done
python=${PYTHON:-python3}
tasks=(CAPTION OD OCR_WITH_REGION)
picture=$source/calibration/held_out/pictures/000.jpg
if [ -z "$work" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi
mkdir -p "$work" && work=$(cd "$work" && pwd)

# download VERSION FOLDER: the wheel and what it needs, as an arm64 Python of that version takes it.
# pip would read "python_version" in requirements as the Python's that runs it: uv resolves them.
download() {
    mkdir -p "$2" && cp "$wheel" "$2"
    echo "florence-edge[cpu] @ file://$wheel" |
        "$work/resolver/bin/uv" pip compile -q --no-header --no-annotate --only-binary :all: \
            --python-version "$1" --python-platform aarch64-manylinux_2_28 - |
        sed '/^florence-edge /d' >"$2.txt"
    "$python" -m pip download -q --disable-pip-version-check --no-deps --dest "$2" \
        --implementation cp --python-version "$1" --only-binary=:all: \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
        --platform manylinux2014_aarch64 --requirement "$2.txt"
}

# apt_of SUITE ARCHITECTURE ARGUMENTS...: apt on a Debian of its own, that touches nothing here
apt_of() {
    local here=$work/apt-$1-$2
    mkdir -p "$here"/{lists,cache/archives}/partial
    echo "deb http://deb.debian.org/debian $1 main" >"$here/sources.list"
    "${3:?}" -o "APT::Architecture=$2" -o "APT::Architectures=$2" -o Dir::State::status=/dev/null \
        -o "Dir::State::Lists=$here/lists" -o "Dir::Cache=$here/cache" \
        -o "Dir::Etc::SourceList=$here/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o APT::Sandbox::User= -qq "${@:4}"
}

# unpack SUITE ARCHITECTURE FOLDER PACKAGES...: these packages into a folder
unpack() {
    apt_of "$1" "$2" apt-get update
    mkdir -p "$work/debs-$1-$2" "$3"
    (cd "$work/debs-$1-$2" && apt_of "$1" "$2" apt-get download "${@:4}")
    for package in "$work/debs-$1-$2"/*.deb; do dpkg-deb -x "$package" "$3"; done
}

# needs SUITE ARCHITECTURE PACKAGES...: these packages and all they depend on
needs() {
    apt_of "$1" "$2" apt-get update
    apt_of "$1" "$2" apt-get --print-uris -y --no-install-recommends install "${@:3}" |
        sed -n "s/^'[^']*' \([^_]*\)_.*/\1/p" | sort -u
}

# answers PYTHON...: what florence-run prints for each bundle and task
answers() {
    for bundle in miniature miniature-int8; do
        for task in "${tasks[@]}"; do
            "$@" -c 'import sys; from florence_edge.cli.main import main; sys.exit(main())' \
                "$work/$bundle" "$picture" --task "$task" --threads 1 --json
        done
    done
}

# export_miniature BUNDLE OPTIONS...
export_miniature() {
    "$python" -c 'import sys; from florence_edge_export.cli import main; sys.exit(main())' \
        miniature --output "$work/$1" --overwrite "${@:2}"
}

echo "== The wheel"
rm -rf "$work/dist"
"$python" -m pip wheel -q --disable-pip-version-check --no-deps --wheel-dir "$work/dist" "$source"
wheel=$(echo "$work"/dist/*.whl)
"$python" -m venv "$work/resolver"
"$work/resolver/bin/python" -m pip install -q --disable-pip-version-check "uv>=0.9,<1"
for version in 3.10 3.12; do
    echo "== Python $version on arm64: what PyPI gives"
    rm -rf "$work/wheels-$version"
    download "$version" "$work/wheels-$version"
    (cd "$work/wheels-$version" && ls) | sed 's/^/   /'
done

machine="" emulator=""
if [ $resolve_only = no ]; then
    echo "== Debian's arm64 Python under QEMU"
    unpack trixie amd64 "$work/qemu" qemu-user
    mapfile -t packages < <(needs bookworm arm64 python3.11 libstdc++6)
    unpack bookworm arm64 "$work/debian" "${packages[@]}"
    download 3.11 "$work/wheels-3.11"
    mkdir -p "$work/site"
    for file in "$work/wheels-3.11"/*.whl; do "$python" -m zipfile -e "$file" "$work/site"; done
    emulated=("$work/qemu/usr/bin/qemu-aarch64" -L "$work/debian" "$work/debian/usr/bin/python3.11")
    emulator=$("${emulated[0]}" --version | head -1)
    machine=$(PYTHONPATH=$work/site "${emulated[@]}" -c 'import platform, onnxruntime as o
print(platform.machine(), platform.python_version(), "onnxruntime", o.__version__)' | tail -1)
    echo "   $machine, $emulator"
    export_miniature miniature
    export_miniature miniature-int8 --precision int8 --target cpu --samples 32 --no-gate
    answers "$python" >"$work/here.json"
    PYTHONPATH=$work/site answers "${emulated[@]}" >"$work/there.json"
    cat "$work/there.json"
fi

"$python" - "$work" "$output" "$machine" "$emulator" "${tasks[@]}" <<'PYTHON'
"""Compare the answers, and write the result."""
import datetime, json, pathlib, sys

work, output, machine, emulator, *tasks = sys.argv[1:]
work = pathlib.Path(work)
record = {
    "command": "jetson/check_arm64.sh",
    "date": datetime.date.today().isoformat(),
    "resolved": {
        version: sorted(path.name for path in (work / f"wheels-{version}").iterdir())
        for version in ("3.10", "3.12")
    },
}
agree = True
if machine:
    here, there = (
        [json.loads(line) for line in (work / name).read_text().splitlines()]
        for name in ("here.json", "there.json")
    )
    same = [a["token_ids"] == b["token_ids"] for a, b in zip(here, there, strict=True)]
    agree = all(same) and len(same) == 2 * len(tasks)
    floats, int8 = same[: len(tasks)], same[len(tasks) :]
    record["emulated"] = {
        "machine": machine,
        "emulator": emulator,
        "model": "miniature",
        "picture": "calibration/held_out/pictures/000.jpg",
        "same_token_ids_as_x86_64": dict(zip(tasks, floats)),
        "in int8 for the CPU": dict(zip(tasks, int8)),
        "answers": {task: answer["raw_text"] for task, answer in zip(tasks, there)},
    }
if output:
    pathlib.Path(output).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
print("arm64:", "resolved" + (", answers agree" if machine and agree else ""))
sys.exit(0 if agree else "arm64: the answers differ from this machine's")
PYTHON
