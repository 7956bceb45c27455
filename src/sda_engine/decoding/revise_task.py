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
        members: a task for each revision, of the same rows; none of them has run. Those of one prompt share what is
            computed of it, and it counts as many copies as it has members.
    """

    def __init__(self, members: Sequence[DecodeTask]) -> None:
        super().__init__(members[0].prompt, members[0].row_names, continues=True)
        self._members = tuple(members)
        self._running = list(members)
        self._planned: list[int] = []  # segments of each prompt, later of each running member, in the next pass

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

    def plan(self, limits: PassLimits, store: PrefixStore) -> list[Segment]:
        """What it wants the next forward pass to do: pieces of all prompts, then tokens of all that run."""
        if not self.prefilling:
            return self._plan(limits)
        segments: list[Segment] = []
        self._planned, most = [], limits.prompt_tokens
        for prompt in self.prompts:
            pieces = prompt.plan(self.row_names, most, store)
            most -= sum(len(piece.token_ids) for piece in pieces)
            self._planned.append(len(pieces))
            segments += pieces
        return segments

    def take(self, logits: Sequence[Tensor], store: PrefixStore) -> bool:
        """Go on with what the pass gave: each prompt, later each member, takes its own part of it."""
        rest = iter(logits)
        parts = [[next(rest) for _ in range(count)] for count in self._planned]
        if self.prefilling:
            for prompt, part in zip(self.prompts, parts, strict=True):
                prompt.take(part, store)
            if not all(prompt.is_ready(self.row_names) for prompt in self.prompts):
                return False
            self.prefilling = False
            return self._start()
        ended = [bool(part) and member.take(part, store) for member, part in zip(self._running, parts, strict=True)]
        self._running = [member for member, end in zip(self._running, ended, strict=True) if not end]
        return not self._running

    def finish(self, store: PrefixStore) -> None:
        """The revisions as far as they got; nothing of them is stored, since most are dropped."""
        for member in self._members:
            member.finish(store)
        self.let_go()

    def _start(self) -> bool:
        """Let every member begin, on rows of its own; whether all have reached their end already."""
        for prompt in self.prompts:
            members = [member for member in self._members if member.prompt is prompt]
            rows = [prompt.rows(self.row_names), *(prompt.copied_rows(self.row_names) for _ in members[1:])]
            for member, own in zip(members, rows, strict=True):
                if member.join(own, prompt.last_logits(self.row_names)):
                    self._running.remove(member)
        return not self._running

    def _plan(self, limits: PassLimits) -> list[Segment]:
        planned = [member._plan(limits) for member in self._running]
        self._planned = [len(segments) for segments in planned]
        return [segment for segments in planned for segment in segments]

    def _begin(self, logits: Tensor) -> bool:
        raise AssertionError("members begin on their own")

    def _take(self, logits: Tensor) -> bool:
        raise AssertionError("members take their parts")
