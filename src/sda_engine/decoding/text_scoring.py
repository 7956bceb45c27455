"""Several texts on one prompt, each scored by a task of its own."""

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from sda_engine.decoding.prompt_state import PromptState
from sda_engine.decoding.score_task import ScoreTask


class TextScoring:
    """Texts on one prompt, a task each: the prompt is computed once, and its rows are let go of at the end.

    Args:
        prompt: the prompt of all tasks.
        tasks: one for each text; each is to be finished before the next.

    Attributes:
        results: what the tasks that have finished give, see `ScoreTask.result`.
    """

    def __init__(self, prompt: PromptState, tasks: Sequence[ScoreTask]) -> None:
        self._prompt = prompt
        self._waiting = tasks
        self.results: list[Mapping[str, Tensor]] = []

    def __enter__(self) -> Iterator[ScoreTask]:
        return self._tasks()

    def __exit__(self, *_: object) -> None:
        self._prompt.release()

    def _tasks(self) -> Iterator[ScoreTask]:
        for task in self._waiting:
            yield task
            self.results.append(task.result())
