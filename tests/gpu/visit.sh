#!/usr/bin/env bash
# What to do on a borrowed GPU machine without a network; tests/gpu/README.md has the calls.
#
#   visit.sh keep DIR      unpack what this call brought into /tmp/visit: wheels, and onnxruntime-gpu
#                          when all its parts are there
#   visit.sh STAGE...      each writes its figures into $OUT as they are known, and one that fails or
#                          exceeds its limit does not stop the next (exit status 1 at the end)
#
# DEVICE=cpu ARCHITECTURE=tiny tries the whole on any machine; NO_COMPILE=1 leaves the compiled opponent
# out, and STAGE_SECONDS sets the limit of every stage.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit

visit=${VISIT:-/tmp/visit}
out=${OUT:?names the folder that results go to}
python=${PYTHON:-python3}
device=${DEVICE:-cuda}
architecture=${ARCHITECTURE:-base}
work=$visit/work

# Ours before theirs: onnxruntime-gpu and the machine's onnxruntime are the same package.
export PYTHONPATH=$visit/site:$PWD/runtime:$PWD/export:$PWD/calibration:$PWD/benchmarks:$PWD/jetson:$PWD/tests
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export TORCHINDUCTOR_CACHE_DIR=$visit/inductor TRITON_CACHE_DIR=$visit/triton # compiled once for both calls

# Seconds that a stage may take. The README's plan has them, too, and what is expected.
limit() {
    case $1 in
        kernels) echo 45 ;;
        transformers) echo 130 ;;
        models) echo 110 ;;
        tasks) echo 45 ;;
        steps) echo 45 ;;
        looks) echo 35 ;;
        int8) echo 45 ;;
        answers) echo 95 ;;
        multi-step) echo 25 ;;
        bandwidth) echo 10 ;;
        report) echo 5 ;;
        tensorrt) echo 3600 ;; # not for a machine that is lent by the minute
        *) die "there is no stage $1: $stages" ;;
    esac
}
# Named, since a module elsewhere that lacks a package would count as skipped.
mapfile -t on_gpu < <(grep -l 'mark\.gpu' tests/runtime/test_*.py)
mapfile -t on_tensorrt < <(grep -l 'mark\.tensorrt' tests/runtime/test_*.py tests/export/test_*.py)
stages="kernels transformers models tasks steps looks int8 answers multi-step bandwidth report tensorrt"

die() {
    echo "visit.sh: $*" >&2
    exit 2
}

keep() {
    [ -d "${1:-}" ] || die "keep wants the folder that the call brought, e.g. .visit/1"
    local wheel
    mkdir -p "$visit/parts" "$visit/site"
    for wheel in "$1"/*.whl; do
        [ -e "$wheel" ] || continue
        "$python" -m zipfile -e "$wheel" "$visit/site" || die "$wheel is damaged: carry it again"
    done
    cp "$1"/onnxruntime.tar.xz* "$visit/parts/" || die "there is no part of onnxruntime in $1"
    if [ -e "$visit/parts/onnxruntime.tar.xz.json" ]; then # it comes with the last part
        "$python" -m gpu.parts join "$visit/parts" "$visit/site" || exit
    fi
}

# cuDNN, cuBLAS and NVRTC come with the machine's torch; the loader has to be told where they are.
find_libraries() {
    local folders
    folders=$("$python" -c '
import importlib.util, pathlib
spec = importlib.util.find_spec("nvidia")
for place in spec.submodule_search_locations if spec else []:
    for folder in sorted(pathlib.Path(place).glob("*/lib")):
        print(folder)
' | paste -sd: -)
    export LD_LIBRARY_PATH=$folders${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
}

# One program of a stage, within what is left of the stage's time.
try() {
    local left=$((ends - SECONDS)) status
    if [ "$left" -le 0 ]; then
        echo "== no time is left for $*" | tee -a "$log"
        worst=124
        return
    fi
    echo "== $*" | tee -a "$log"
    timeout --kill-after=3 "$left" "$@" 2>&1 | tee -a "$log"
    status=${PIPESTATUS[0]}
    echo "== exit status $status" | tee -a "$log"
    if [ "$status" -ne 0 ]; then worst=$status; fi
}

# A program of this folder.
ours() {
    local program=$1
    shift
    try "$python" -m "gpu.$program" --figures "$figures" --work "$work" --device "$device" \
        --architecture "$architecture" "$@"
}

tests() {
    local section=$1
    shift
    try "$python" -m gpu.unit_tests --figures "$figures" --section "$section" "$@"
}

note() {
    "$python" -m gpu.figures "$figures" "$@" >>"$log" || failed=1
}

run() {
    case $1 in
        kernels) tests kernels -- -m gpu "${on_gpu[@]}" ;; # what needs onnxruntime-gpu is skipped
        transformers) ours opponents ${NO_COMPILE:+--no-compile} ;;
        models) ours models ;;
        tasks) tests tasks --no-skips -- -m gpu "${on_gpu[@]}" ;;
        steps) ours decode_steps ;;
        looks) ours looks ;;
        int8)
            ours same_answers
            ours decode_steps --precision int8 --section int8
            ours looks --precision int8 --section int8
            ;;
        answers) ours answers --output "$out/answers.json" ${NO_COMPILE:+--no-compile} ;;
        multi-step) ours multi_step ;;
        bandwidth) ours bandwidth ;;
        report) try "$python" -m gpu.report --figures "$figures" --output "$out/report.md" ;;
        tensorrt) tensorrt ;;
    esac
}

# Engines are built for the GPU at hand, which takes minutes, and run.
tensorrt() {
    tests tensorrt --no-skips -- -m tensorrt "${on_tensorrt[@]}"
    ours engines
}

stage() {
    local begun=$SECONDS
    ends=$((SECONDS + ${STAGE_SECONDS:-$(limit "$1")}))
    worst=0
    run "$1"
    note stages "$1" "{\"status\": $worst, \"seconds\": $((SECONDS - begun))}"
    cp "$figures" "$visit/figures.json" # the next call finds an empty $OUT
    if [ "$worst" -ne 0 ]; then failed=1; fi
}

machine() {
    local gpu
    gpu=$(nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem --format=csv,noheader 2>/dev/null)
    note machine gpu "\"${gpu//\"/}\""
    note machine date "\"$(date -u +%FT%TZ)\""
    note machine cores "$(nproc)"
    "$python" -m pip list --format freeze 2>/dev/null |
        grep -iE '^(torch|transformers|numpy|cuda-bindings|nvidia-cu.*|nvidia-cudnn.*)=' >>"$log"
}

[ $# -gt 0 ] || die "say what: keep DIR, or stages: $stages"
mkdir -p "$out" "$visit"
figures=$out/figures.json
log=$out/visit.log
failed=0
if [ "$1" = keep ]; then
    keep "${2:-}"
    exit
fi
for name in "$@"; do limit "$name" >/dev/null || exit; done
find_libraries
if [ ! -e "$figures" ] && [ -e "$visit/figures.json" ]; then cp "$visit/figures.json" "$figures"; fi
machine
for name in "$@"; do stage "$name"; done
exit "$failed"
