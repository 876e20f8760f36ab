"""The package onnxruntime, as it is imported."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("onnxruntime")


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("0", "0")])
def test_telemetry_is_off_unless_the_user_says_otherwise(given: str | None, expected: str) -> None:
    program = (
        "import os, sys\n"
        "from florence_edge.backends.ort_package import import_onnxruntime\n"
        "assert 'onnxruntime' not in sys.modules\n"
        "import_onnxruntime()\n"
        "print(os.environ['ORT_DISABLE_TELEMETRY'])\n"
    )
    environment = {name: of for name, of in os.environ.items() if "TELEMETRY" not in name}
    if given is not None:
        environment["ORT_DISABLE_TELEMETRY"] = given
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == expected
