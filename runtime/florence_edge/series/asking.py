"""What every picture of a series is asked: one task or several, or a prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING

from ..answers.result import Result
from ..errors import RequestError
from ..questions import Question, free_question, question
from ..tasks import Needs, Task, find_task

if TYPE_CHECKING:
    from ..view import View


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Questions that do not change from picture to picture; make it with `asked_of`.

    Where there are several tasks, the text goes to those that take one, and so does the region.
    """

    tasks: tuple[Task, ...] = ()
    text: str | None = None
    region: tuple[float, ...] | None = None
    prompt: str | None = None

    def questions(self, image_size: tuple[int, int] | None) -> list[Question]:
        """The questions about a picture of this size; None checks all but that the region fits.

        Raises:
            RequestError: text or region do not fit a task.
        """
        if self.prompt is not None:
            return [free_question(self.prompt)]
        if len(self.tasks) == 1:
            return [question(self.tasks[0], self.text, self.region, image_size)]
        return [
            question(
                task,
                self.text if task.needs is Needs.TEXT else None,
                self.region if task.needs is Needs.REGION else None,
                image_size,
            )
            for task in self.tasks
        ]

    def answers_of(self, views: Sequence["View"]) -> list[tuple[Result, ...] | RequestError]:
        """The answers about each picture of a batch, or why there are none.

        Where a batch is refused, every picture is asked alone, so that it has its own error.
        """
        try:
            asked = [self.questions(view.size) for view in views]
            model, options = views[0].model, views[0].options
            columns = [
                model.answer(views, each, options) for each in map(list, zip(*asked, strict=True))
            ]
        except RequestError as error:
            if len(views) == 1:
                return [error]
            return [answers for view in views for answers in self.answers_of([view])]
        return list(zip(*columns, strict=True))

    def answers(self, view: "View", cancel: Event | None = None) -> tuple[Result, ...]:
        """What the model answers about one picture, which was encoded once."""
        return tuple(
            result
            for each in self.questions(view.size)
            for result in view.model.answer([view], [each], view.options, cancel)
        )


def asked_of(
    tasks: str | Task | Sequence[str | Task],
    text: str | None = None,
    region: Sequence[float] | None = None,
) -> Asked:
    """One task or several, with the text and the region that go with them.

    Raises:
        RequestError: no task, one that does not exist, or too little or too much beside them.
    """
    named = [tasks] if isinstance(tasks, str | Task) else list(tasks)
    if not named:
        raise RequestError("No task is named. Give one or more, such as OD.")
    asked = Asked(
        tasks=tuple(find_task(task) for task in named),
        text=text,
        region=None if region is None else tuple(region),
    )
    asked.questions(None)
    needs = {task.needs for task in asked.tasks}
    names = ", ".join(task.token for task in asked.tasks)
    if text is not None and Needs.TEXT not in needs and len(named) > 1:
        raise RequestError(f"None of {names} takes a text. Leave the text out.")
    if region is not None and Needs.REGION not in needs:
        raise RequestError(f"None of {names} takes a region. Leave the region out.")
    return asked


def prompt_of(prompt: str) -> Asked:
    """A prompt in the user's own words.

    Raises:
        RequestError: the prompt is empty.
    """
    free_question(prompt)
    return Asked(prompt=prompt)
