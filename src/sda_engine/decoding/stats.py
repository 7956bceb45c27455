"""What an engine is doing, and what it has done so far, in numbers: for metrics and for a look from outside."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class BatchStats:
    """The running batch after its last forward pass.

    Attributes:
        running_tasks: base responses, answers and ratings that are being decoded or read.
        rows: rows that the next pass may run.
        held_tokens: tokens whose keys and values the rows of all requests hold, what they share counted once.
        stored_tokens: those of the prefix store, which may share them.
        passes: forward passes so far.
        pass_seconds: seconds that they took on the host, all together.
        tokens: tokens that went through them, every row's counted.
        reused_tokens: tokens of prompts that were read from the prefix store in place of being computed.
        evictions: times that a request between two tasks lent its memory to another.
        preemptions: times that a task had to let go of its rows and compute them again, since others came first.
        pictures_read: times that the vision tower ran, once for each picture that was not kept from before.
        picture_bytes: bytes of what it made of pictures, as far as that is kept for later passes.
    """

    running_tasks: int = 0
    rows: int = 0
    held_tokens: int = 0
    stored_tokens: int = 0
    passes: int = 0
    pass_seconds: float = 0.0
    tokens: int = 0
    reused_tokens: int = 0
    evictions: int = 0
    preemptions: int = 0
    pictures_read: int = 0
    picture_bytes: int = 0


@dataclass(frozen=True)
class EngineStats(BatchStats):
    """The same of a whole engine, at one moment.

    Attributes:
        requests: taken on and not ended: running, waiting, or with their evaluator.
        waiting_tasks: what waits for rows or memory.
        cache_tokens: the most tokens that may be held, those of stored prefixes included.
    """

    requests: int = 0
    waiting_tasks: int = 0
    cache_tokens: int = 0

    def as_json(self) -> dict[str, float]:
        """The same as plain JSON."""
        return asdict(self)
