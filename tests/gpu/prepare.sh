#!/usr/bin/env bash
# Here, before a visit: fetch onnxruntime-gpu and what else the machine lacks, trim, cut, check sizes.
#
#   tests/gpu/prepare.sh [COMPUTE_CAPABILITY]     default 9.0 (H100, H200); writes .visit/1 and .visit/2
#
# Needs the package index, Python with this project's development environment, and some two minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."

capability=${1:-9.0}
python=${PYTHON:-.venv/bin/python}
ort=onnxruntime-gpu==1.31.1 # CUDA 13, as the machine's torch
lacking=(msgspec==0.22.0)   # of what the runtime needs, all that the machine has not
most=$((64 * 1024 * 1024))  # bytes of a call: the repository and what it carries

wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
"$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 \
    --platform manylinux2014_x86_64 -d "$wheels" "$ort" "${lacking[@]}"

mkdir -p .git/info
grep -qsx /.visit/ .git/info/exclude || echo /.visit/ >>.git/info/exclude
rm -rf .visit
PYTHONPATH=tests "$python" -m gpu.parts cut "$wheels"/onnxruntime_gpu-*.whl .visit "$capability"
for name in "${lacking[@]}"; do cp "$wheels/${name%%==*}"-*.whl .visit/1/; done

tree=$(git ls-files -z --cached --others --exclude-standard | "$python" -c '
import os, sys
names = sys.stdin.buffer.read().split(b"\0")
print(sum(os.path.getsize(name) for name in names if os.path.isfile(name)))
')
for part in .visit/*/; do
    carried=$(du -sb "$part" | cut -f1)
    echo "${part%/} with the repository: $(((tree + carried) / 1048576)) of $((most / 1048576)) MiB"
    if [ $((tree + carried)) -gt "$most" ]; then
        echo "prepare.sh: that is too much for one call: carry less" >&2
        exit 1
    fi
done
echo "Ready. tests/gpu/README.md has the two calls."
