#!/usr/bin/env bash
# Show the power mode and clocks of a Jetson; set them only on request.
#
#   jetson/power-mode.sh                  show the mode, the modes there are, the GPU's clock
#   jetson/power-mode.sh --set max        the fastest mode of this board (MAXN_SUPER or MAXN)
#   jetson/power-mode.sh --set 15W        a mode by its name or number
#   jetson/power-mode.sh --set max --lock clocks fixed at their highest, until the next start
#
# Setting needs root, and nvpmodel may ask for a restart. Numbers differ by board: 0 is MAXN on an
# AGX Orin and 15W on an Orin Nano Super, so modes are looked up by name.
set -euo pipefail

fail() {
    echo "power-mode.sh: $1" >&2
    exit 1
}

requested="" lock=no
while [ $# -gt 0 ]; do
    case $1 in
        --set) requested=${2:?--set needs max, a name or a number} && shift ;;
        --lock) lock=yes ;;
        -h | --help) sed -n '2,10s/^# \{0,1\}//p' "$0" && exit 0 ;;
        *) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
    esac
    shift
done
if [ $lock = yes ] && [ -z "$requested" ]; then fail "--lock sets clocks: give --set MODE with it."; fi

root=${FLORENCE_ROOT:-} # the files of another machine, for tests
command -v nvpmodel >/dev/null || fail "There is no nvpmodel: this is not a Jetson."

# "number name" a line
modes() {
    sed -nE 's/^< *POWER_MODEL +ID=([0-9]+) +NAME=([^ >]+).*/\1 \2/p' "$root/etc/nvpmodel.conf"
}

# The number of the requested mode; nothing if there is none
number_of() {
    if [ "$1" = max ]; then
        modes | awk '$2 ~ /^MAXN/ && length($2) > length(best) { best = $2; id = $1 } END { print id }'
    else
        modes | awk -v requested="$1" '$1 == requested || $2 == requested { print $1; exit }'
    fi
}

show() {
    nvpmodel -q
    echo "Modes of this board:"
    modes | sed 's/^/  /'
    for folder in "$root"/sys/class/devfreq/*gpu*; do
        [ -r "$folder/cur_freq" ] || continue
        echo "$(basename "$folder"): $(($(cat "$folder/cur_freq") / 1000000)) MHz now," \
            "up to $(($(cat "$folder/max_freq") / 1000000)) MHz"
    done
}

if [ -n "$requested" ]; then
    number=$(number_of "$requested")
    [ -n "$number" ] || fail "This board has no mode $requested. Its modes: $(modes | tr '\n' ';')"
    [ "$(id -u)" = 0 ] || fail "Setting the mode needs root: sudo $0 --set $requested"
    nvpmodel -m "$number"
    if [ $lock = yes ]; then jetson_clocks; fi
fi
show
