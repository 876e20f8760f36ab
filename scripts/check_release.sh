#!/usr/bin/env bash
# Builds what would be released and tries it in fresh environments; RELEASING.md, step 4.
#
#   scripts/check_release.sh DIR      DIR must not exist; it keeps dist/, the environments, what was drawn
#
# Needs Python 3.10 or later (PYTHON=...), git and the package index. The program is installed from
# the wheel alone: nothing is imported from the checkout.
set -euo pipefail

fail() {
    echo "check_release.sh: $1" >&2
    exit 1
}

[ $# -eq 1 ] || fail "say where to: scripts/check_release.sh DIR"
[ ! -e "$1" ] || fail "$1 is there already; name a folder that is not"
source=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
mkdir -p "$1"
work=$(cd "$1" && pwd)
pip() { "$1/bin/python" -m pip --disable-pip-version-check --quiet "${@:2}"; }

echo "1. The files that git knows"
mkdir "$work/tree"
(cd "$source" && git ls-files --cached --others --exclude-standard -z |
    while IFS= read -r -d '' file; do [ -f "$file" ] && printf '%s\0' "$file"; done |
    tar --null --files-from - -cf -) | tar -C "$work/tree" -xf -

echo "2. sdist, the wheel from it, and the wheel from the tree"
"$python" -m venv "$work/tools"
pip "$work/tools" install build twine
"$work/tools/bin/python" -m build --outdir "$work/dist" "$work/tree" >"$work/build.log"
"$work/tools/bin/python" -m build --wheel --outdir "$work/from_tree" "$work/tree" >>"$work/build.log"
"$work/tools/bin/python" - "$work" <<'PYTHON'
import hashlib, pathlib, sys, zipfile

def content(folder):
    (wheel,) = pathlib.Path(folder).glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}

work = pathlib.Path(sys.argv[1])
by_sdist, by_tree = content(work / "dist"), content(work / "from_tree")
differing = sorted({*by_sdist, *by_tree} - {n for n in by_sdist if by_sdist[n] == by_tree.get(n)})
if differing:
    sys.exit(f"check_release.sh: the wheels differ in {differing}")
packages = sorted({name.split("/")[0] for name in by_sdist})
print(f"   both have the same {len(by_sdist)} files, in {', '.join(packages)}")
PYTHON
"$work/tools/bin/twine" check --strict "$work"/dist/*
ls -l "$work/dist"

echo "3. A fresh environment with [cpu]"
wheel=$(echo "$work"/dist/*.whl)
"$python" -m venv "$work/venv"
pip "$work/venv" install "${wheel}[cpu]"
cd "$work"
version=$("$work/venv/bin/python" -c 'import florence_edge; print(florence_edge.__version__)')
[ -f "$work/dist/florence_edge-$version-py3-none-any.whl" ] || fail "the wheel is not of $version"
for command in "$work"/venv/bin/florence-*; do
    [ "$("$command" --version)" = "florence-edge $version" ] || fail "$command --version"
done
if missing=$("$work/venv/bin/florence-export" miniature --output bundle 2>&1); then
    fail "exported without [export]"
fi
case $missing in
*Traceback*) fail "without [export]: $missing" ;;
*"florence-edge[export]"*) ;;
*) fail "without [export]: $missing" ;;
esac
du -sh "$work/venv"

echo "4. With [cpu,export]: export, answer, draw"
pip "$work/venv" install "${wheel}[cpu,export]"
"$work/venv/bin/python" - <<'PYTHON'
from florence_edge_calibration.scenes import draw_scene, generate_scene
draw_scene(generate_scene(900_001)).save("scene.png")
PYTHON
"$work/venv/bin/florence-export" miniature --output bundle
for task in CAPTION OD OCR_WITH_REGION; do
    "$work/venv/bin/florence-run" bundle scene.png --task "$task" --json --output drawn | tee -a answers.jsonl
done
[ "$(wc -l <answers.jsonl)" -eq 3 ] || fail "three answers expected"
"$work/venv/bin/florence-run" bundle scene.png --task CAPTION --check
"$work/venv/bin/python" -m pip check
echo "florence-edge $version: $(ls "$work/dist")"
