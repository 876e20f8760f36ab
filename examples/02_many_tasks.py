"""Many tasks on one picture: the vision encoder runs once, then each answer costs its own text.

python examples/02_many_tasks.py BUNDLE street.jpg --phrases "traffic light" bicycle
"""

import argparse

from florence_edge import DECODE, VISION, Florence2


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask several tasks about one picture.")
    parser.add_argument("bundle", help="the folder that florence-export wrote")
    parser.add_argument("picture")
    parser.add_argument("--phrases", nargs="+", default=["a red square"], help="things to find")
    arguments = parser.parse_args()

    with Florence2.load(arguments.bundle) as model:
        view = model.encode(arguments.picture)

        caption = view.caption(detail=2)
        print("caption:", caption.text)

        objects = view.detect()
        print("objects:", [region.label for region in objects.regions])

        found = view.detect(arguments.phrases)
        print("phrases:", [(region.label, region.box) for region in found.regions])

        print("text:", view.ocr().text)
        if objects.regions:
            box = objects.regions[0].box
            print("first object:", view.describe(box).text)

        # All answers about a view report the one encoding that they share.
        print(f"encoded once in {caption.seconds[VISION]:.3f} s")
        print(f"decoded in {caption.seconds[DECODE]:.3f} s and {objects.seconds[DECODE]:.3f} s")


if __name__ == "__main__":
    main()
