#!/usr/bin/env bash
# What to do on a borrowed GPU machine without a network; tests/gpu/README.md has the calls.
#
#   visit.sh keep DIR      keep the parts of wheels that this call brought, in /tmp/visit
#   visit.sh install       put the wheels together and install them to /tmp/visit/site
#   visit.sh STAGE...      tests, rtx, speed, eager, steps, multi-step: each writes into $OUT, and a stage
#                          that fails does not stop the next (exit status 1 at the end)
set -uo pipefail
cd "$(dirname "$0")/../.." || exit

visit=${VISIT:-/tmp/visit}
out=${OUT:?names the folder that results go to}
python=${PYTHON:-python3}
limit=${STAGE_SECONDS:-480}  # of a command of a stage; a call may take 600

# Ours before theirs: onnxruntime-gpu and the machine's onnxruntime write the same folder.
export PYTHONPATH=$visit/site:$PWD/runtime:$PWD/export:$PWD/calibration:$PWD/benchmarks:$PWD/jetson
export PYTHONUNBUFFERED=1

die() {
    echo "visit.sh: $*" >&2
    exit 2
}

keep() {
    [ -d "${1:-}" ] || die "keep wants the folder with the parts, e.g. .visit"
    mkdir -p "$visit/parts"
    cp "$1"/*.part-?? "$visit/parts/" || die "there are no parts (NAME.whl.part-aa) in $1"
    ls -l "$visit/parts"
}

# NAME.whl.part-aa, NAME.whl.part-ab, ... become NAME.whl; the hash was written before the split.
join_parts() {
    mkdir -p "$visit/wheels"
    local first wheel
    for first in "$visit"/parts/*.part-aa; do
        [ -e "$first" ] || die "no parts were kept: visit.sh keep DIR comes first"
        wheel=$(basename "$first" .part-aa)
        cat "$visit/parts/$wheel".part-?? >"$visit/wheels/$wheel"
    done
    (cd "$visit/wheels" && sha256sum --check "$visit"/parts/sha256.part-00) ||
        die "a part is missing or damaged: carry it again"
}

install() {
    join_parts
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
        --target "$visit/site" "$visit"/wheels/*.whl || die "pip refuses a wheel"
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

failed=0
try() {
    local log=$out/$1
    shift
    echo "== $*" | tee -a "$log"
    timeout "$limit" "$@" 2>&1 | tee -a "$log"
    local status=${PIPESTATUS[0]}
    echo "== exit status $status" | tee -a "$log"
    if [ "$status" -ne 0 ]; then failed=1; fi
}

# A command of ours without its installed script.
ours() {
    local log=$1 module=$2
    shift 2
    try "$log" "$python" -c "import sys; from $module import main; sys.exit(main())" "$@"
}

stage() {
    case $1 in
        tests) # warnings of that machine's packages are no failures of ours
            try tests.log "$python" -m pytest -W default -m gpu tests/runtime -p no:cacheprovider
            try tests.log "$python" -m pytest -W default -m tensorrt tests/runtime tests/export \
                -p no:cacheprovider
            ;;
        rtx) try rtx.log "$python" tests/gpu/engine_validity.py "$out/engine_validity.json" ;;
        speed) speed speed.json ;;
        eager) FLORENCE_CUDA_GRAPHS=0 speed speed_eager.json ;;
        steps)
            ours steps.log florence_edge_export.cli miniature --precision fp16 \
                --in-place-decoder 256 --output "$visit/in-place" --overwrite
            try steps.log "$python" tests/gpu/decoder_steps.py "$visit/in-place" \
                "$out/decoder_steps.json"
            ;;
        multi-step)
            ours multi_step.log florence_edge_export.cli miniature --precision fp16 \
                --output "$visit/miniature" --overwrite
            try multi_step.log "$python" tests/gpu/multi_step.py "$visit/miniature" cuda \
                "$out/multi_step_cuda.json"
            ours multi_step.log florence_edge_export.tensorrt_build.cli "$visit/miniature"
            try multi_step.log "$python" tests/gpu/multi_step.py "$visit/miniature" tensorrt \
                "$out/multi_step_tensorrt.json"
            ;;
        *) die "there is no stage $1: tests, rtx, speed, eager, steps, multi-step" ;;
    esac
}

# Base with random weights in float16 beside transformers, plain and compiled, on the same GPU.
speed() {
    ours speed.log florence_edge_benchmarks.cli speed --architecture base --precision fp16 \
        --device cuda --compare transformers-fp16,transformers-fp16-compile --tasks CAPTION \
        --beams 1,3 --rounds 10 --work "$visit/${1%.json}" --output "$out/$1"
}

[ $# -gt 0 ] || die "say what: keep DIR, install, or stages (tests, rtx, speed, eager, steps, multi-step)"
mkdir -p "$out" "$visit"
case $1 in
    keep) keep "${2:-}" ;;
    install) install ;;
    *)
        find_libraries
        { date -u; nvidia-smi; "$python" -m pip list --path "$visit/site"; } >"$out/machine.txt" 2>&1
        for name in "$@"; do stage "$name"; done
        exit "$failed"
        ;;
esac
