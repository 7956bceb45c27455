"""One replica: an engine that batches continuously, reads prompts in pieces, and holds keys and values in blocks."""

from collections import deque
from dataclasses import dataclass, field

from sda_engine.errors import ConfigError
from sda_integrations.vllm.plan.simulation.prefixes import PrefixStore
from sda_integrations.vllm.plan.simulation.step_times import StepTimes
from sda_integrations.vllm.plan.simulation.traffic import Request


@dataclass(frozen=True)
class EngineShape:
    """What every replica has.

    Attributes:
        times: of its steps.
        blocks: of keys and values.
        block_size: tokens of a block.
        max_rows: rows at once (`--max-num-seqs`).
        max_tokens: tokens of a step (`--max-num-batched-tokens`).
        rows: of a request: 1 is plain.
        instruction: tokens by which each other row's prompt is longer.
        after: tokens of the prompt after the place where the rows part.
    """

    times: StepTimes
    blocks: int
    block_size: int = 16
    max_rows: int = 256
    max_tokens: int = 2048
    rows: int = 1
    instruction: int = 40
    after: int = 5


@dataclass(eq=False)
class RowGroup:
    """The rows of one request in a replica.

    Attributes:
        request: whose rows they are.
        arrived: seconds, on the clock of the simulation.
        decoded: tokens of the answer; every row has them.
        to_read: prompt tokens of all rows that are still to be computed.
        known: prompt tokens that the cache had when it was first taken in.
        first_text: when the first token came; None before.
    """

    request: Request
    arrived: float
    decoded: int = 0
    to_read: int = 0
    known: int | None = None
    first_text: float | None = None

    def tokens(self) -> int:
        """Of the base row, by now."""
        return self.request.prompt + self.decoded


@dataclass
class Replica:
    """An engine. `begin_step` says how long the next step takes, `end_step` what came of it.

    Attributes:
        number: the router's name for it.
        preempted: groups that gave their blocks back, and began again.
    """

    number: int
    shape: EngineShape
    preempted: int = 0
    waiting: deque[RowGroup] = field(default_factory=deque)
    running: list[RowGroup] = field(default_factory=list)
    _store: PrefixStore = field(default_factory=PrefixStore)
    _held: int = 0  # blocks of running groups
    _decoding: list[RowGroup] = field(default_factory=list)  # of the step under way
    _reading: list[tuple[RowGroup, int]] = field(default_factory=list)

    @property
    def load(self) -> int:
        """Requests that run or wait."""
        return len(self.waiting) + len(self.running)

    def begin_step(self) -> float | None:
        """Seconds of the next step; None where there is nothing to do."""
        shape = self.shape
        self._make_room()
        self._decoding = [group for group in self.running if not group.to_read]
        rows = len(self._decoding) * shape.rows
        kv_tokens = sum(shape.rows * group.tokens() for group in self._decoding)
        self._reading = self._read(shape.max_tokens - rows)
        if not self.running:
            return None
        kv_tokens += sum(group.tokens() for group, _ in self._reading)
        return shape.times.seconds(rows, sum(piece for _, piece in self._reading), kv_tokens)

    def _read(self, tokens: int) -> list[tuple[RowGroup, int]]:
        """So many tokens of prompts: first of running groups, then of waiting ones, in the order of their arrival."""
        reading = []
        for group in [one for one in self.running if one.to_read]:
            if piece := min(tokens, group.to_read):
                reading.append((group, piece))
                tokens -= piece
        while tokens > 0 and self.waiting and self._admit(self.waiting[0]):
            group = self.waiting.popleft()
            self.running.append(group)
            piece = min(tokens, group.to_read)
            reading.append((group, piece))
            tokens -= piece
        return reading

    def _admit(self, group: RowGroup) -> bool:
        """Take in a group with all of its rows, where there is room for the whole of its prompts."""
        shape = self.shape
        if (len(self.running) + 1) * shape.rows > shape.max_rows:
            return False
        needed = self._blocks_of(group)
        if needed > shape.blocks:
            raise ConfigError(
                f"A request needs {needed} blocks, and a replica has {shape.blocks}: simulate more blocks or shorter "
                f"conversations."
            )
        if self._held + needed > shape.blocks:
            return False
        stored = self._store.take((group.request.conversation, 0))
        known = min(stored * shape.block_size, group.tokens() - 1)
        if group.known is None:
            group.known = known
        longer = group.tokens() + shape.instruction - self._shared(group) * shape.block_size
        group.to_read = group.tokens() - known + (shape.rows - 1) * longer
        self._held += needed
        self._store.shrink_to(shape.blocks - self._held)
        return True

    def _make_room(self) -> None:
        """Blocks for one more token of each group, from the store, or else from the youngest groups."""
        needed = sum(self._blocks_of(group, 1) for group in self.running)
        while needed > self.shape.blocks and len(self.running) > 1:
            group = self.running.pop()
            needed -= self._blocks_of(group, 1)
            self._keep(group)
            self.waiting.appendleft(group)
            self.preempted += 1
        self._held = needed
        self._store.shrink_to(self.shape.blocks - needed)

    def _blocks_of(self, group: RowGroup, more: int = 0) -> int:
        """Blocks of all rows: the full ones of the common prefix once, and each row's own."""
        shape = self.shape
        length = group.tokens() + more
        base = -(-length // shape.block_size)
        longer = -(-(length + shape.instruction) // shape.block_size)
        return base + (shape.rows - 1) * (longer - self._shared(group))

    def _shared(self, group: RowGroup) -> int:
        """Full blocks of the common prefix of a group's rows."""
        return max(0, group.request.prompt - self.shape.after) // self.shape.block_size

    def end_step(self, now: float) -> list[RowGroup]:
        """The groups whose answers are whole."""
        for group, piece in self._reading:
            group.to_read -= piece
            if not group.to_read:  # the step that reads the last of the prompts gives a token, too
                self._decoding.append(group)
        whole = []
        for group in self._decoding:
            group.decoded += 1
            if group.first_text is None:
                group.first_text = now
            if group.decoded >= group.request.answer:
                whole.append(group)
        for group in whole:
            self._release(group)
        return whole

    def _release(self, group: RowGroup) -> None:
        self.running.remove(group)
        self._held -= self._blocks_of(group)
        self._keep(group)
        self._store.shrink_to(max(0, self.shape.blocks - self._held))

    def _keep(self, group: RowGroup) -> None:
        """Store what a group has computed until the blocks are needed: the next turn begins as its base row did."""
        shape = self.shape
        conversation, prompt = group.request.conversation, group.request.prompt
        read = 0 if group.to_read else group.tokens()
        for row in range(1, shape.rows if read else 1):  # of use to nobody, and yet the cache does not know it
            own = (read + shape.instruction) // shape.block_size - self._shared(group)
            self._store.put((conversation, row, prompt), own)
        self._store.put((conversation, 0), read // shape.block_size)
