"""Several answers to one prompt at once: each has rows of its own, and all rows go through every pass together."""

from collections.abc import Sequence

from torch import Tensor

from sda_engine.decoding.attention import Segment
from sda_engine.decoding.prefix_store import PrefixStore
from sda_engine.decoding.prompt_state import PromptState
from sda_engine.decoding.row_group import DecodedText
from sda_engine.decoding.tasks import DecodeTask, PassLimits, Task


class ReviseTask(Task):
    """Decodes revisions of a base response.

    Args:
        prompt: where all rows come from; it counts as many copies as there are revisions.
        members: a task for each revision, of the same prompt and rows; none of them has run.
    """

    def __init__(self, prompt: PromptState, members: Sequence[DecodeTask]) -> None:
        super().__init__(prompt, members[0].row_names, continues=True)
        self._members = tuple(members)
        self._running = list(members)
        self._planned: list[int] = []  # segments of each running member in the next pass

    @property
    def row_count(self) -> int:
        """Rows of the revisions that are not complete."""
        return sum(member.row_count for member in self._running)

    def results(self) -> list[DecodedText]:
        """The revisions, in order, after the Finished event."""
        return [member.result() for member in self._members]

    def take(self, logits: Sequence[Tensor], store: PrefixStore) -> bool:
        """Go on with what the pass gave: each member takes its own part of it."""
        if self.prefilling:
            return super().take(logits, store)
        rest = iter(logits)
        parts = [[next(rest) for _ in range(count)] for count in self._planned]
        ended = [bool(part) and member.take(part, store) for member, part in zip(self._running, parts, strict=True)]
        self._running = [member for member, end in zip(self._running, ended, strict=True) if not end]
        return not self._running

    def finish(self, store: PrefixStore) -> None:
        """The revisions as far as they got; nothing of them is stored, since most are dropped."""
        for member in self._members:
            member.finish(store)
        self.let_go()

    def _begin(self, logits: Tensor) -> bool:
        rows = [self._rows, *(self.prompt.copied_rows(self.row_names) for _ in self._members[1:])]
        ended = [member.join(own, logits) for member, own in zip(self._members, rows, strict=True)]
        self._running = [member for member, end in zip(self._members, ended, strict=True) if not end]
        self._rows = []
        return not self._running

    def _plan(self, limits: PassLimits) -> list[Segment]:
        planned = [member._plan(limits) for member in self._running]
        self._planned = [len(segments) for segments in planned]
        return [segment for segments in planned for segment in segments]

    def _take(self, logits: Tensor) -> bool:
        raise AssertionError("members take their parts")
