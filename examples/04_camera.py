"""A camera, a stream or a video: the newest frame is answered, and old ones are dropped.

pip install ".[cpu,camera]"
python examples/04_camera.py BUNDLE 0                            # /dev/video0; Ctrl-C ends it
python examples/04_camera.py BUNDLE rtsp://camera/stream --wait
python examples/04_camera.py BUNDLE drive.mp4 --every 5          # of a file, each fifth frame
"""

import argparse

from florence_edge import Florence2, FlorenceEdgeError, GenerationOptions, Watching, watch


def main() -> None:
    parser = argparse.ArgumentParser(description="Detect objects in what a camera sees.")
    parser.add_argument("bundle", help="the folder that florence-export wrote")
    parser.add_argument("source", help="a camera's number, a URL, a video or a pipeline")
    parser.add_argument("--every", type=int, default=1, help="answer one frame of so many")
    parser.add_argument("--frames", type=int, help="stop after so many answers")
    parser.add_argument("--wait", action="store_true", help="wait for a camera that is away")
    arguments = parser.parse_args()

    quick = GenerationOptions(num_beams=1, max_time=1.0)  # greedy, and never longer than a second
    how = Watching(every=arguments.every, wait=arguments.wait, patience=30)
    with Florence2.load(arguments.bundle) as model:
        try:
            for frame, (objects,), stats in watch(
                model, arguments.source, "OD", options=quick, how=how
            ):
                labels = ", ".join(region.label for region in objects.regions) or "nothing"
                print(
                    f"frame {frame.index} at {frame.timestamp:.1f} s: {labels}"
                    f" ({stats.fps:.1f}/s, {stats.latency:.2f} s, {stats.dropped} dropped)"
                )
                if stats.answered == arguments.frames:
                    break
        except FlorenceEdgeError as error:  # not opened, lost for 30 seconds, or PyAV is missing
            parser.exit(1, f"{error}\n")
        except KeyboardInterrupt:
            print("stopped")


if __name__ == "__main__":
    main()
