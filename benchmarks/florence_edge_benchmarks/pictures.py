"""The picture that speed and energy are measured on, where the user names none."""

from pathlib import Path

from florence_edge_calibration.scenes import draw_scene, generate_scene

SCENE_SEED = 900_100  # not among the miniature's
_SIDE = 640
_QUALITY = 90


def scene_picture(folder: Path, seed: int = SCENE_SEED) -> Path:
    """A generated scene as a JPEG file of 640 x 640 pixels; the folder is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"scene-{seed}.jpg"
    draw_scene(generate_scene(seed), _SIDE).save(path, quality=_QUALITY)
    return path
