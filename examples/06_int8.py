"""int8 with your own pictures: export in float and in int8, and ask both the same.

pip install ".[cpu,export]"
python examples/06_int8.py MODEL photos/ work/ --samples 256

MODEL is a checkpoint folder, a hub id or `miniature`. The pictures should be of the kind that the
model will get, a hundred or more. Three quarters of them calibrate, and the rest judges: read
`work/int8/fidelity.md`.
"""

import argparse
import subprocess
from pathlib import Path

from florence_edge import Florence2, GenerationOptions


def export(model: str, output: Path, *options: str) -> int:
    """Export, and give the bundle's size in bytes."""
    command = ["florence-export", model, "--output", str(output), "--overwrite", *options]
    subprocess.run(command, check=True)
    return sum(file.stat().st_size for file in output.iterdir() if file.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description="Export in int8, and compare with float32.")
    parser.add_argument("model")
    parser.add_argument("pictures", type=Path)
    parser.add_argument("work", type=Path, help="the bundles go here")
    parser.add_argument("--samples", default="256", help="pictures to calibrate and judge with")
    parser.add_argument("--budget", default="0.01", help="share of positions a task may lose")
    parser.add_argument("--no-gate", action="store_true", help="do not judge; for a first try")
    parser.add_argument("--target", default="cpu", choices=("tensorrt", "cpu", "portable"))
    parser.add_argument("--task", default="OD")
    arguments = parser.parse_args()

    arguments.work.mkdir(parents=True, exist_ok=True)
    float_bundle, int8_bundle = arguments.work / "fp32", arguments.work / "int8"
    before = export(arguments.model, float_bundle)
    how = ["--calibration-images", str(arguments.pictures), "--samples", arguments.samples]
    how += ["--target", arguments.target, "--budget", arguments.budget]
    how += ["--no-gate"] if arguments.no_gate else []
    after = export(arguments.model, int8_bundle, "--precision", "int8", *how)
    print(f"{before / 1e6:.1f} MB in float32, {after / 1e6:.1f} MB in int8")

    greedy = GenerationOptions(num_beams=1, max_new_tokens=64)
    same, paths = 0, sorted(arguments.pictures.iterdir())[:8]
    with Florence2.load(float_bundle) as full, Florence2.load(int8_bundle) as small:
        for path in paths:
            answers = [model.run(path, arguments.task, options=greedy) for model in (full, small)]
            same += answers[0].token_ids == answers[1].token_ids
    print(f"the same answer to {arguments.task} for {same} of {len(paths)} pictures")


if __name__ == "__main__":
    main()
