"""Tests on a GPU, with every outcome written when it is known.

    python -m gpu.unit_tests --figures FILE --section NAME [--no-skips] -- -m gpu tests/runtime

pytest ends well when every test was skipped, for want of a GPU say; this does not. With --no-skips
one skipped test is a failure, too: where everything is at hand, nothing may be left out.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from .figures import Figures

_SHOWN = 20


class Recorder:
    """A plugin of pytest that puts outcomes into the figures."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        self.outcomes: Counter[str] = Counter()
        self._told: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            self._count(report)

    def pytest_collectreport(self, report: Any) -> None:
        """A module that is skipped or cannot be imported."""
        if report.outcome != "passed":
            self._count(report)

    def _count(self, report: Any) -> None:
        self.outcomes[report.outcome] += 1
        self._figures.put("outcomes", dict(self.outcomes))
        if report.outcome != "passed" and len(self._told) < _SHOWN:
            self._told[report.nodeid] = f"{report.outcome}: {str(report.longrepr)[-300:]}"
            self._figures.put("not passed", self._told)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--figures", type=Path, required=True)
    parser.add_argument("--section", required=True)
    parser.add_argument("--no-skips", action="store_true")
    parser.add_argument("pytest_arguments", nargs="*")
    told = parser.parse_args()
    recorder = Recorder(Figures(told.figures, told.section))
    # Warnings of that machine's packages are no failures of ours.
    options = ["-p", "no:cacheprovider", "-W", "default", "-q", *told.pytest_arguments]
    status = int(pytest.main(options, plugins=[recorder]))
    outcomes = recorder.outcomes
    if status == 0 and not outcomes["passed"]:
        sys.stdout.write("No test was run: this is not a pass.\n")
        status = 1
    if status == 0 and told.no_skips and outcomes["skipped"]:
        sys.stdout.write(f"{outcomes['skipped']} tests were skipped, where none may be.\n")
        status = 1
    recorder._figures.put("exit status", status)
    return status


if __name__ == "__main__":
    sys.exit(main())
