"""Recorded boards: a text file of `path = content` lines becomes a folder of files."""

from pathlib import Path

from florence_edge_jetson.machine.system import Tree

DATA = Path(__file__).parent / "data"
BOARDS = ("orin-nano", "orin-nx", "agx-orin", "thor")


def board_tree(name: str, folder: Path, **changed: str | None) -> Tree:
    """The files of a board under `folder`; `changed` are contents by file name, None to leave out.

    A change applies to every file whose name, with its dots and slashes as underscores, ends so.
    """
    files = read_files(name)
    for suffix, content in changed.items():
        paths = [
            path for path in files if path.replace("/", "_").replace(".", "_").endswith(suffix)
        ]
        assert paths, f"{name} has no file {suffix}"
        for path in paths:
            files[path] = content
    return write_tree(folder, {path: text for path, text in files.items() if text is not None})


def write_tree(folder: Path, files: dict[str, str]) -> Tree:
    for path, text in files.items():
        target = folder / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return Tree(folder)


def read_files(name: str) -> dict[str, str | None]:
    files: dict[str, str | None] = {}
    for line in (DATA / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("/"):
            continue
        path, _, content = line.partition(" =")
        for written, meant in ((r"\n", "\n"), (r"\t", "\t"), (r"\0", "\0")):
            content = content.replace(written, meant)
        files[path] = content.removeprefix(" ")
    return files
