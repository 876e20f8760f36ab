"""Where, when and with what a recorded figure was measured."""

import datetime
import os
import platform
from importlib.metadata import version

from florence_edge_jetson.machine.system import cpu_name


def circumstances(*packages: str) -> dict[str, object]:
    """Date, machine and versions, for a JSON file in results/."""
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, {cpu_name()}",
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
    }
