"""Several answers at once: each has rows of its own, and all rows go through every pass together."""

from collections.abc import Sequence

from torch import Tensor

from sda_engine.decoding.attention import Segment
from sda_engine.decoding.prefix_store import PrefixStore
from sda_engine.decoding.prompt_state import PromptState
from sda_engine.decoding.row_group import DecodedText
from sda_engine.decoding.tasks import Choosing, DecodeTask, PassLimits, Task, split_logits, together


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

    def _begin(self) -> Choosing:
        choosing = []
        for prompt in self.prompts:
            members = [member for member in self._members if member.prompt is prompt]
            rows = [prompt.rows(self.row_names), *(prompt.copied_rows(self.row_names) for _ in members[1:])]
            logits = prompt.last_logits(self.row_names)
            choosing += [(member, member.join(own, logits)) for member, own in zip(members, rows, strict=True)]
        ended = yield from together([own for _, own in choosing])
        for (member, _), over in zip(choosing, ended, strict=True):
            if over:
                self._running.remove(member)
        return not self._running

    def _plan(self, limits: PassLimits) -> list[Segment]:
        planned = [member._plan(limits) for member in self._running]
        self._planned = [len(segments) for segments in planned]
        return [segment for segments in planned for segment in segments]

    def _take(self, logits: Sequence[Tensor]) -> Choosing:
        parts = split_logits(logits, self._planned)
        ended = yield from together([member._take(part) for member, part in zip(self._running, parts, strict=True)])
        self._running = [member for member, over in zip(self._running, ended, strict=True) if not over]
        return not self._running
