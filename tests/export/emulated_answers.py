"""What a bundle answers about held-out scenes, as JSON; run under another processor's emulation.

qemu-x86_64 -cpu Haswell python emulated_answers.py PICTURES TASKS BUNDLE ...
"""

import json
import sys

from florence_edge import Florence2, GenerationOptions
from florence_edge.backends.ort import int8_products_saturate
from florence_edge_calibration.scenes.held_out import load_held_out


def answers(bundle: str, pictures: int, tasks: set[str]) -> dict[str, list[int]]:
    """Greedy token ids by picture and task."""
    found = {}
    with Florence2.load(bundle, threads=1) as model:
        for scene in load_held_out()[:pictures]:
            view = model.encode(scene.picture)
            for question in scene.questions:
                if question.task in tasks:
                    options = GenerationOptions(num_beams=1)
                    result = view.run(question.task, question.text or None, options=options)
                    found[f"{scene.picture.name} {question.task}"] = list(result.token_ids)
    return found


if __name__ == "__main__":
    count, asked, *folders = sys.argv[1:]
    sys.stdout.write(
        json.dumps(
            {
                "saturates": int8_products_saturate(),
                "answers": [answers(each, int(count), set(asked.split(","))) for each in folders],
            }
        )
    )
