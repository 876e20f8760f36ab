"""One picture, one task: print the answer, and draw it.

python examples/01_one_picture.py BUNDLE street.jpg
python examples/01_one_picture.py BUNDLE street.jpg --task CAPTION_TO_PHRASE_GROUNDING \
    --text "a red car" --output found.png
"""

import argparse

from florence_edge import TASKS, Florence2


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask one task about one picture.")
    parser.add_argument("bundle", help="the folder that florence-export wrote")
    parser.add_argument("picture")
    parser.add_argument("--task", default="OD", choices=TASKS)
    parser.add_argument("--text", help="a caption or a phrase, for tasks that take one")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", help="save the picture with the answer drawn on it")
    arguments = parser.parse_args()

    with Florence2.load(arguments.bundle, arguments.device) as model:
        view = model.encode(arguments.picture)
        result = view.run(arguments.task, arguments.text)

        print(result.describe())  # a line for each region: score, box, label
        print(result.to_hf())  # the dictionary that Hugging Face's processor gives
        if arguments.output:
            result.draw(view.image).save(arguments.output)


if __name__ == "__main__":
    main()
