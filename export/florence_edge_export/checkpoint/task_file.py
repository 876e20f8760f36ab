"""A fine-tune's own tasks, from a file that `--task-file` names.

    {"<FIND_DEFECTS>": {"prompt": "Find the defects in the image.",
                        "answer": "description_with_bboxes"},
     "<DEFECTS_LIKE>": {"prompt": "Find {input} in the image.", "answer": "polygons"}}

`answer` is how the text is read, by Hugging Face's names (`AnswerKind`); `takes` is nothing, text
or region, and what `{input}` in the prompt suggests where it is left out.
"""

from dataclasses import dataclass
from pathlib import Path

from florence_edge.errors import RequestError
from florence_edge.files import from_json, read_json
from florence_edge.tasks import AnswerKind, Needs, Task, check_own_tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    """One task as it is written."""

    prompt: str
    answer: AnswerKind
    takes: Needs | None = None

    def task(self, token: str) -> Task:
        usual = Needs.TEXT if "{input}" in self.prompt else Needs.NOTHING
        return Task(token, self.prompt, self.answer, usual if self.takes is None else self.takes)


def read_tasks(path: Path) -> tuple[Task, ...]:
    """The tasks of a file.

    Raises:
        RequestError: it cannot be read, or holds something else.
    """
    try:
        written = from_json(dict[str, _Written], read_json(path))
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{path} is not a file of tasks: {error}. Expected such as "
            '{"<FIND_DEFECTS>": {"prompt": "Find the defects in the image.", '
            '"answer": "description_with_bboxes"}}.'
        ) from error
    tasks = tuple(each.task(token) for token, each in written.items())
    check_own_tasks(tasks)
    return tasks
