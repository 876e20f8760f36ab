"""Which JetPack a Jetson runs, and what comes with it."""

import re
from dataclasses import dataclass

RELEASE_FILE = "/etc/nv_tegra_release"


@dataclass(frozen=True, slots=True)
class Release:
    """A release of Jetson Linux (L4T), such as R36.4.3."""

    numbers: tuple[int, ...]

    def __str__(self) -> str:
        return "R" + ".".join(map(str, self.numbers))


@dataclass(frozen=True, slots=True, kw_only=True)
class JetPack:
    """A JetPack and the versions in it; `usable` means TensorRT 10.3 or later."""

    version: str
    cuda: str
    tensorrt: str
    python: str
    usable: bool = True


def _jetpack_6(version: str) -> JetPack:
    return JetPack(version=version, cuda="12.6", tensorrt="10.3", python="3.10")


# First release of Jetson Linux that belongs to each JetPack. Versions: NVIDIA's release notes and
# logs from devices, collected in the project's design notes.
_FIRST_RELEASES: dict[tuple[int, ...], JetPack] = {
    (32, 1): JetPack(version="4.x", cuda="10.2", tensorrt="8.2", python="3.6", usable=False),
    (34, 1): JetPack(version="5.x", cuda="11.4", tensorrt="8.5", python="3.8", usable=False),
    (36, 2): JetPack(version="6.0", cuda="12.2", tensorrt="8.6", python="3.10", usable=False),
    (36, 4): _jetpack_6("6.1"),
    (36, 4, 3): _jetpack_6("6.2"),
    (36, 4, 4): _jetpack_6("6.2.1"),
    (36, 5): _jetpack_6("6.2.2"),
    (38, 2): JetPack(version="7.0", cuda="13.0", tensorrt="10.13", python="3.12"),
    (38, 4): JetPack(version="7.1", cuda="13.0", tensorrt="10.13", python="3.12"),
    (39, 2): JetPack(version="7.2", cuda="13.2", tensorrt="10.16", python="3.12"),
}


def release_from_text(text: str | None) -> Release | None:
    """The release that the first line of /etc/nv_tegra_release states.

    "# R36 (release), REVISION: 4.3, GCID: 38968081, ..." is R36.4.3.
    """
    found = re.search(r"R([0-9]+) \(release\), REVISION: ([0-9]+(?:\.[0-9]+)*)", text or "")
    if found is None:
        return None
    return Release((int(found[1]), *map(int, found[2].split("."))))


def jetpack_of(release: Release) -> JetPack | None:
    """The JetPack of a release; None for one that is newer than this table.

    A revision that the table does not list belongs to the JetPack before it (R36.4.7 to 6.2.1).
    """
    majors = {first[0] for first in _FIRST_RELEASES}
    older = [first for first in _FIRST_RELEASES if first <= release.numbers]
    if release.numbers[0] not in majors and release.numbers[0] > max(majors):
        return None
    return _FIRST_RELEASES[max(older)] if older else None
