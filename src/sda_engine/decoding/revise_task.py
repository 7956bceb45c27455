"""Several answers at once: each has rows of its own, and all rows go through every pass together."""

from collections.abc import Sequence

from torch import Tensor

from sda_engine.decoding.decode_task import DecodeTask
from sda_engine.decoding.prefix_store import PrefixStore
from sda_engine.decoding.prompt_state import PromptState
from sda_engine.decoding.row_group import DecodedText
from sda_engine.decoding.rows import Row
from sda_engine.decoding.segments import Segment
from sda_engine.decoding.tasks import Choosing, PassLimits, Task, split_logits, together


class ReviseTask(Task):
    """Decodes revisions of a base response.

    Args:
        members: a task for each revision, of the same rows; none of them has run. Those of one prompt share what is
            computed of it, and it counts as many copies as it has members.
    """

    def __init__(self, members: Sequence[DecodeTask]) -> None:
        super().__init__(members[0].prompt, members[0].row_names, continues=True)
        self._members = tuple(members)
        self._running = list(members)
        self._planned: list[int] = []  # segments of each running member in the next pass

    @property
    def members(self) -> Sequence[DecodeTask]:
        """A task for each revision."""
        return self._members

    @property
    def prompts(self) -> tuple[PromptState, ...]:
        """Those of the members."""
        return tuple(dict.fromkeys(member.prompt for member in self._members))

    @property
    def row_count(self) -> int:
        """Rows of the revisions that are not complete."""
        return sum(member.row_count for member in self._running)

    def results(self) -> list[DecodedText]:
        """The revisions, in order, after the Finished event."""
        return [member.result() for member in self._members]

    def finish(self, store: PrefixStore) -> None:
        """The revisions as far as they got; nothing of them is stored, since most are dropped."""
        for member in self._members:
            member.finish(store)
        self.let_go()

    @property
    def in_bulk(self) -> bool:
        """Whether one of the revisions reads."""
        return self.prefilling or any(member.in_bulk for member in self._running)

    @property
    def rows(self) -> Sequence[Row]:
        """Those of the members."""
        return [row for member in self._running for row in member.rows]

    def unread(self, store: PrefixStore) -> int:
        """Tokens that the members have to read, a prompt of several once."""
        return super().unread(store) + sum(member.unread_answer for member in self._running)

    def suspend(self) -> None:
        """All of them."""
        super().suspend()
        for member in self._running:
            member.drop_rows()

    def _begin(self) -> Choosing:
        members = self._own_rows()
        choosing = [member.join(rows, member.prompt.last_logits(self.row_names)) for member, rows in members]
        ended = yield from together(choosing)
        for (member, _), over in zip(members, ended, strict=True):
            if over:
                self._running.remove(member)
        return not self._running

    def _begin_again(self) -> bool:
        for member, rows in self._own_rows():
            member.rejoin(rows)
        return False

    def _own_rows(self) -> list[tuple[DecodeTask, Sequence[Row]]]:
        """The revisions that are not complete, each with rows of its own that hold its prompt."""
        pairs: list[tuple[DecodeTask, Sequence[Row]]] = []
        for prompt in dict.fromkeys(member.prompt for member in self._running):
            members = [member for member in self._running if member.prompt is prompt]
            rows = prompt.rows(self.row_names)
            pairs += zip(members, [rows, *(prompt.copied_rows(self.row_names) for _ in members[1:])], strict=True)
        return pairs

    def _plan(self, limits: PassLimits) -> list[Segment]:
        planned = [member._plan(limits) for member in self._running]
        self._planned = [len(segments) for segments in planned]
        return [segment for segments in planned for segment in segments]

    def _take(self, logits: Sequence[Tensor]) -> Choosing:
        parts = split_logits(logits, self._planned)
        ended = yield from together([member._take(part) for member, part in zip(self._running, parts, strict=True)])
        self._running = [member for member, over in zip(self._running, ended, strict=True) if not over]
        return not self._running
