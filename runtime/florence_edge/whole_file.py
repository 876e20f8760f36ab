"""Files that are there whole, or as they were before."""

from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a file beside its place first, and rename it.

    A link stays one; a device or a pipe is written to, since a rename would take its place.

    Raises:
        OSError: it cannot be written; what was there before is left.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        target.write_text(text, encoding="utf-8")
        return
    unfinished = target.with_name(f".{target.name}.part")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
