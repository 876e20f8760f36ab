#!/usr/bin/env bash
# Install florence-edge on a Jetson: TensorRT's Python module from apt, a virtual environment that
# sees it, this checkout in it. May be run again: what is done already is left alone.
#
#   jetson/setup.sh [--dry-run] [--venv DIR] [--swap GIB]
set -euo pipefail

usage() {
    sed -n '2,5s/^# \{0,1\}//p' "$0"
    echo
    echo "  --dry-run   print the commands and run none"
    echo "  --venv DIR  where the virtual environment goes (default /opt/florence-edge)"
    echo "  --swap GIB  make a swap file of so many GiB; boards of 8 GB need 8 to build engines"
}

fail() {
    echo "setup.sh: $1" >&2
    exit 1
}

dry_run=no venv=/opt/florence-edge swap=0
while [ $# -gt 0 ]; do
    case $1 in
        --dry-run) dry_run=yes ;;
        --venv) venv=${2:?--venv needs a folder} && shift ;;
        --swap) swap=${2:?--swap needs a number of GiB} && shift ;;
        -h | --help) usage && exit 0 ;;
        *) usage >&2 && exit 2 ;;
    esac
    shift
done
[[ $swap =~ ^[0-9]+$ ]] || fail "--swap $swap is not a whole number of GiB."

source=$(cd "$(dirname "$0")/.." && pwd)
root=${FLORENCE_ROOT:-} # the files of another machine, for tests; with --dry-run only
[ -z "$root" ] || dry_run=yes

# run COMMAND...: print it, and run it unless this is a dry run
run() {
    echo "+ $*"
    if [ $dry_run = no ]; then "$@"; fi
}

as_root() {
    if [ "$(id -u)" = 0 ]; then run "$@"; else run sudo "$@"; fi
}

# which JetPack: "# R36 (release), REVISION: 4.3, ..."
release=$(sed -nE '1s/^# R([0-9]+) \(release\), REVISION: ([0-9.]+).*/\1.\2/p' \
    "$root/etc/nv_tegra_release" 2>/dev/null || true)
case $release in
    36.[4-9]*) python=python3.10 extra=tensorrt-cu12 dla=nvidia-l4t-dla-compiler ;;
    38.* | 39.*) python=python3.12 extra=tensorrt-cu13 ;;
    "") fail "This is not a Jetson: there is no /etc/nv_tegra_release. On a PC: pip install .[cpu]" ;;
    *) fail "Jetson Linux $release is too old or too new: JetPack 6.1 to 7.2 are known." ;;
esac
echo "Jetson Linux $release: $python, extras cpu, camera and $extra"

# packages of the system
# `import tensorrt` of JetPack 6 asks for a library of the DLA's compiler; GStreamer's pipelines
# (CSI cameras: nvarguscamerasrc) are reached through gi, which only the system's Python has.
missing=()
for package in "$python-venv" python3-libnvinfer ${dla:+"$dla"} python3-gi \
    gir1.2-gst-plugins-base-1.0; do
    if [ -n "$root" ] || ! dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q ' installed$'; then
        missing+=("$package")
    fi
done
if [ ${#missing[@]} -gt 0 ]; then
    as_root apt-get update
    as_root apt-get install -y --no-install-recommends "${missing[@]}"
fi

# swap
if [ "$swap" -gt 0 ] && ! grep -qsE '^/swapfile[[:space:]]' "$root/proc/swaps"; then
    if [ ! -e "$root/swapfile" ]; then
        as_root fallocate -l "${swap}G" /swapfile
        as_root chmod 600 /swapfile
        as_root mkswap /swapfile
    fi
    as_root swapon /swapfile
    if ! grep -qsE '^/swapfile[[:space:]]' "$root/etc/fstab"; then
        as_root sh -c 'echo "/swapfile none swap sw 0 0" >> /etc/fstab'
    fi
fi

# florence-edge
if [ ! -x "$venv/bin/python" ]; then
    as_root install -d -o "$(id -un)" "$venv"
    run "$python" -m venv --system-site-packages "$venv"
fi
run "$venv/bin/python" -m pip install --disable-pip-version-check "${source}[cpu,camera,$extra]"

# is it ready?
run "$venv/bin/florence-doctor"
