"""What one forward pass adds to rows, and how their queries meet keys and values: worked out once for all layers.

A few new tokens of a row go into its tail, and the tails of all such rows stand side by side, padded alike: one call
attends to them all. What these rows begin with is attended to once for all rows that share it. Longer segments, those
of prompts, go one by one.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor

from sda_engine.decoding.architecture import Layer
from sda_engine.decoding.reach import Reach, first_seen
from sda_engine.decoding.rows import Row
from sda_engine.decoding.segments import Alone, Run, Segment, Together

_MOST_TOGETHER = 16  # tokens of a segment that goes with others
_thread = threading.local()


_Write = tuple[Tensor | None, Tensor, Tensor]
_Visible = dict[object, tuple[int, Tensor | None] | None]
_Placed = tuple[_Write | None, Together | None, dict[object, Tensor | None], _Visible]


class ForwardPass:
    """The segments of one forward pass.

    Args:
        segments: of different rows of one memory; a fork's comes after that of the row it is a fork of.
        device: where the model is.
        layers: what the model's layers are.

    Attributes:
        layers: likewise.
        attended: the layers that it has gone through, in order, each with the sliding window that it was told of.
        is_handed_down: whether it has reached a layer as a keyword argument.
        together: the segments that go in one call; None where there are none.
        alone: the other ones.
    """

    def __init__(self, segments: Sequence[Segment], device: torch.device, layers: Sequence[Layer] = ()) -> None:
        self.segments: Sequence[Segment] = segments
        self.layers = layers
        self.attended: list[tuple[int, int | None]] = []
        self.is_handed_down = False
        self._device = device
        self._elsewhere: dict[torch.device, _Placed] = {}  # the same for layers on other devices
        self._slots = segments[0].row.memory.slots
        self._masks: dict[object, Tensor | None] = {}
        self._sharing: dict[Run, list[int]] = {}  # which of the segments that go together begin with it
        self._visible: dict[object, tuple[int, Tensor | None] | None] = {}
        for segment in segments:
            segment.row.prepare(len(segment.token_ids))
        starts = [0]
        for segment in segments:
            starts.append(starts[-1] + len(segment.token_ids))
        self._starts = starts
        few = [place for place, segment in enumerate(segments) if _goes_together(segment)]
        many = [place for place, segment in enumerate(segments) if not _goes_together(segment)]
        into_tails = [place for place in (*few, *many) if segments[place].row.making is None]
        room = max((_end_of_tail(segments[place]) for place in into_tails), default=0)
        self._slots.arrange([segments[place].row for place in into_tails], room)
        self._write_to = self._places_to_write(into_tails)
        self._beginning = [segment.row for segment in segments if segment.row.begins_with_a_copy]
        self._blocks = [
            (segment.row.making, slice(starts[place], starts[place + 1]))
            for place, segment in enumerate(segments)
            if segment.row.making is not None
        ]
        self.together = self._make_together(few) if few else None
        self.alone: Sequence[Alone] = [self._make_alone(place) for place in many]

    @property
    def tokens(self) -> int:
        """Tokens of all segments."""
        return self._starts[-1]

    @contextmanager
    def runs_in_this_thread(self) -> Iterator[None]:
        """Around the pass: layers find it even where their model hands no keyword arguments down to them."""
        outer = running_pass()
        _thread.forward_pass = self
        try:
            yield
        finally:
            _thread.forward_pass = outer

    @contextmanager
    def let_go_on_failure(self) -> Iterator[None]:
        """Around the pass: the frames of an error, which may be kept, hold it, and it shall hold no rows then."""
        try:
            yield
        except BaseException:
            self.segments, self.together, self.alone, self._beginning, self._blocks = (), None, [], [], []
            self._elsewhere.clear()
            raise

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Put the states of all new tokens where their rows keep them.

        Args:
            layer: its place among those that store keys and values; they come in order, from 0.
            keys, values: (heads, tokens of all segments, size).
        """
        if keys.device != self._device:
            self._move_to(keys.device)
        self._slots.open(layer, keys, values)
        for block, new in self._blocks:
            block.layers.append((keys[:, new].clone(), values[:, new].clone()))
        if self._write_to is not None:
            sources, slots, places = self._write_to
            for states, new_states in zip(self._slots.layer(layer), (keys, values), strict=True):
                states[slots, :, places] = (new_states if sources is None else new_states[:, sources]).transpose(0, 1)
        for row in self._beginning:
            for states, source in zip(self._slots.layer(layer), row.beginning_of_tail(layer), strict=True):
                states[row.slot, :, : row.tail] = source

    def own(self, alone: Alone, layer: int) -> tuple[Tensor, Tensor]:
        """The keys and values that a segment by itself has written, with what stands in the same tail, (heads, ...)."""
        if alone.row.making is not None:
            return alone.row.making.layers[layer]
        stop = alone.row.tail + alone.stop - alone.start
        keys, values = self._slots.layer(layer)
        return keys[alone.row.slot, :, :stop], values[alone.row.slot, :, :stop]

    def tails(self, layer: int) -> tuple[Tensor, Tensor]:
        """The keys and values of the tails that are attended to together, (rows, heads, length, size)."""
        assert self.together is not None
        rows, length = len(self.together.rows), self.together.length
        keys, values = self._slots.layer(layer)
        return keys[:rows, :, :length], values[:rows, :, :length]

    def tail_mask(self, groups: int, reach: Reach, dtype: torch.dtype) -> Tensor | None:
        """(rows, 1, groups * queries, length): what to add to the scores of the tails' keys; None where all are seen.

        Args:
            groups: query heads per key head; their queries stand behind one another.
        """
        together = self.together
        assert together is not None
        kind = ("tails", groups, reach, dtype)
        if kind not in self._masks:
            keys = together.tail_starts.unsqueeze(-1) + torch.arange(together.length)  # (rows, length)
            seen = reach.seen(together.positions, keys)
            self._masks[kind] = self._additive(seen.repeat(1, groups, 1).unsqueeze(1), dtype)
        return self._masks[kind]

    def visible(self, run: Run, groups: int, reach: Reach, dtype: torch.dtype) -> tuple[int, Tensor | None] | None:
        """What the rows that share a run see of it: from which of its keys on, and a mask for these; None for nothing.

        The mask is (1, 1, members * groups * queries, keys), as for tails; None where all see all.
        """
        together = self.together
        assert together is not None
        if reach.is_full:
            return 0, None
        kind = (run, groups, reach, dtype)
        if kind not in self._visible:
            positions = together.positions[self._sharing[run]]
            seen = reach.seen(positions, run.keys.expand(len(positions), -1))
            first = first_seen(seen)
            mask = self._additive(seen[..., first:].repeat(1, groups, 1).flatten(0, 1)[None, None], dtype)
            self._visible[kind] = None if first == len(run.piece) else (first, mask)
        return self._visible[kind]

    def visible_alone(
        self, alone: Alone, run: Run, reach: Reach, dtype: torch.dtype
    ) -> tuple[int, Tensor | None] | None:
        """The same for a segment by itself; the mask is (tokens, keys)."""
        if reach.is_full:
            return 0, None
        kind = (alone.start, run, reach, dtype)
        if kind not in self._visible:
            seen = reach.seen(alone.positions, run.keys.unsqueeze(0))
            first = first_seen(seen)
            mask = self._additive(seen[0, :, first:], dtype)
            self._visible[kind] = None if first == len(run.piece) else (first, mask)
        return self._visible[kind]

    def mask_alone(self, alone: Alone, start: int, reach: Reach, dtype: torch.dtype) -> Tensor | None:
        """(tokens, keys) for a segment by itself and all keys of its row from a place on: as for tails."""
        kind = ("alone", alone.start, start, reach, dtype)
        if kind not in self._masks:
            keys = torch.arange(start, alone.position + alone.stop - alone.start)
            seen = reach.seen(alone.positions, keys.unsqueeze(0))[0] | _seen_inside(alone, keys, reach)
            self._masks[kind] = self._additive(seen, dtype)
        return self._masks[kind]

    def _move_to(self, device: torch.device) -> None:
        """Have indices and masks where a layer is; for each device of a model on several they are made once."""
        self._elsewhere[self._device] = self._write_to, self.together, self._masks, self._visible
        if device not in self._elsewhere:
            write_to = None if self._write_to is None else _on(device, *self._write_to)
            together = None if self.together is None else self.together.on(device)
            self._elsewhere[device] = cast(_Write | None, write_to), together, {}, {}
        self._write_to, self.together, self._masks, self._visible = self._elsewhere.pop(device)
        self._device = device

    def _additive(self, seen: Tensor, dtype: torch.dtype) -> Tensor | None:
        """What to add to scores: 0 where a key is seen, else a number so low that it counts for nothing."""
        if bool(seen.all()):
            return None
        masked = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min / 2)
        return masked.to(self._device)

    def _places_to_write(self, into_tails: Sequence[int]) -> tuple[Tensor | None, Tensor, Tensor] | None:
        """Which tokens of the pass (None for all) go into which slots, and where there."""
        if not into_tails:
            return None
        sources: list[int] = []
        slots: list[int] = []
        places: list[int] = []
        for place in into_tails:
            row, new = self.segments[place].row, len(self.segments[place].token_ids)
            assert row.slot is not None
            sources += range(self._starts[place], self._starts[place] + new)
            slots += [row.slot] * new
            places += range(row.tail, row.tail + new)
        are_all = sources == list(range(self.tokens))
        return None if are_all else self._index(sources), self._index(slots), self._index(places)

    def _make_together(self, few: Sequence[int]) -> Together:
        segments = [self.segments[place] for place in few]
        counts = [len(segment.token_ids) for segment in segments]
        queries = max(counts)
        padded = [
            self._starts[place] + min(query, count - 1)
            for place, count in zip(few, counts, strict=True)
            for query in range(queries)
        ]
        kept = [row * queries + query for row, count in enumerate(counts) for query in range(count)]
        places = [number for place in few for number in range(self._starts[place], self._starts[place + 1])]
        first = torch.tensor([segment.row.length for segment in segments])
        tails = torch.tensor([segment.row.tail for segment in segments])
        for row, segment in enumerate(segments):
            for run in _runs(segment.row):
                self._sharing.setdefault(run, []).append(row)
        return Together(
            rows=[segment.row for segment in segments],
            queries=queries,
            length=max(map(_end_of_tail, segments)),
            tokens=None if padded == list(range(self.tokens)) else self._index(padded),
            kept=None if len(kept) == len(padded) else self._index(kept),
            places=None if places == list(range(self.tokens)) else self._index(places),
            positions=first.unsqueeze(-1) + torch.arange(queries),
            tail_starts=first - tails,
            runs=[(run, None if len(rows) == len(few) else self._index(rows)) for run, rows in self._sharing.items()],
        )

    def _make_alone(self, place: int) -> Alone:
        segment, start = self.segments[place], self._starts[place]
        row = segment.row
        return Alone(
            row, start, self._starts[place + 1], row.length, row.length - row.tail, _runs(row), _blocks(segment)
        )

    def _index(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, device=self._device)


def running_pass() -> ForwardPass | None:
    """The pass that runs in this thread; None where none does."""
    found = getattr(_thread, "forward_pass", None)
    assert found is None or isinstance(found, ForwardPass)
    return found


def _on(device: torch.device, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(None if tensor is None else tensor.to(device) for tensor in tensors)


def _goes_together(segment: Segment) -> bool:
    few = segment.row.making is None and len(segment.token_ids) <= _MOST_TOGETHER
    return few and not _blocks(segment)


def _blocks(segment: Segment) -> Sequence[tuple[int, int]]:
    """Where in the row those new tokens are that attend to each other in both directions."""
    row = segment.row
    return () if row.pictures is None else row.pictures.blocks(row.length, row.length + len(segment.token_ids))


def _end_of_tail(segment: Segment) -> int:
    return segment.row.tail + len(segment.token_ids)


def _runs(row: Row) -> list[Run]:
    runs, start = [], 0
    for piece in row.pieces:
        runs.append(Run(piece, start))
        start += len(piece)
    return runs


def _seen_inside(alone: Alone, keys: Tensor, reach: Reach) -> Tensor:
    """(queries, keys) bool: what tokens of one picture see of each other in both directions, as Gemma 3 has it: of
    what comes before, no more than the window.

    Args:
        keys: (keys,) their places in the row.
    """
    queries = alone.positions[0].unsqueeze(-1)
    seen = torch.zeros(len(queries), len(keys), dtype=torch.bool)
    for start, stop in alone.blocks:
        seen |= (queries >= start) & (queries < stop) & (keys >= start) & (keys < stop)
    return seen if reach.window is None else seen & (keys > queries - reach.window)
