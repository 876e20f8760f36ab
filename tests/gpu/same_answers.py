"""Float16 and int8 beside float32 where answers mean something: the miniature on a GPU and a CPU.

    python -m gpu.same_answers --figures FILE --work DIR [--device cpu]

How many of the answers to all tasks about two scenes have the token ids of float32 on a CPU. The
float32 bundle itself is held to all of them, by the tests; these may differ where two tokens nearly
tie.
"""

import sys

from florence_edge import Florence2, GenerationOptions
from florence_edge_calibration.scenes import ask_everything, draw_scene, generate_scene

from .figures import Figures
from .models import PRECISIONS, arguments, miniature

SCENES = (11, 12)
BEAMS = (1, 3)
MAX_NEW_TOKENS = 48


def main() -> int:
    told = arguments(__doc__).parse_args()
    figures = Figures(told.figures, "int8")
    with figures.attempt("same answers"):
        expected = answers(Florence2.load(miniature("fp32", told.work)))
        for precision in PRECISIONS:
            model = Florence2.load(miniature(precision, told.work), told.device)
            found = answers(model)
            same = sum(one == other for one, other in zip(found, expected, strict=True))
            figures.put(f"miniature {precision}, answers of float32", f"{same} of {len(expected)}")
            model.close()
    return figures.exit_status


def answers(model: Florence2) -> list[tuple[int, ...]]:
    found = []
    for beams in BEAMS:
        options = GenerationOptions(num_beams=beams, max_new_tokens=MAX_NEW_TOKENS)
        for scene in map(generate_scene, SCENES):
            picture = draw_scene(scene, model.bundle.size.image_size)
            view = model.encode(picture, options=options)
            for asked in ask_everything(scene):
                found.append(view.run(asked.task, asked.text or None).token_ids)
    return found


if __name__ == "__main__":
    sys.exit(main())
