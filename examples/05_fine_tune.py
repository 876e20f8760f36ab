"""A fine-tune end to end: a local checkpoint folder becomes a bundle, is checked, and answers.

pip install ".[cpu,export]"                        # and "verify" for --verify
python examples/05_fine_tune.py my-checkpoint/ bundle picture.jpg --task OD --verify
python examples/05_fine_tune.py my-vqa-checkpoint/ bundle picture.jpg --prompt "How many cars?"

The folder has what `save_pretrained` writes: config.json, model.safetensors, the tokenizer. Both
layouts of keys are read, that of transformers and that of Microsoft's code.
"""

import argparse
import subprocess

from florence_edge import TASKS, Florence2


def main() -> None:
    parser = argparse.ArgumentParser(description="Export a checkpoint and ask it something.")
    parser.add_argument("checkpoint")
    parser.add_argument("bundle", help="where the bundle goes")
    parser.add_argument("picture")
    parser.add_argument("--task", default="CAPTION", choices=TASKS)
    parser.add_argument("--prompt", help="the fine-tune's own prompt, in place of a task")
    parser.add_argument("--verify", action="store_true", help="compare with transformers")
    arguments = parser.parse_args()

    command = ["florence-export", arguments.checkpoint, "--output", arguments.bundle]
    command += ["--overwrite", *(["--verify"] if arguments.verify else [])]
    subprocess.run(command, check=True)

    with Florence2.load(arguments.bundle) as model:
        for output, error in model.self_test().items():  # is this what the exporter computed?
            print(f"self-test {output}: {error:.1e}")
        if arguments.prompt:
            result = model.ask(arguments.picture, arguments.prompt)
        else:
            result = model.run(arguments.picture, arguments.task)
    print(result.describe())


if __name__ == "__main__":
    main()
