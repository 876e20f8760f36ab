"""Where, when and with what a recorded figure was measured."""

import datetime
import os
import platform
from importlib.metadata import version
from pathlib import Path


def circumstances(*packages: str) -> dict[str, object]:
    """Date, machine and versions, for a JSON file beside the tests."""
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, {_processor()}",
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
    }


def _processor() -> str:
    """Linux knows the model's name; `platform` often says the architecture alone."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text(encoding="utf-8").splitlines() if known.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
