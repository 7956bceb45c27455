import gc

import pytest
import torch

from sda_engine.decoding import slots
from sda_engine.decoding.blocks import make_piece
from sda_engine.decoding.forward_pass import ForwardPass
from sda_engine.decoding.rows import Row, RowMemory
from sda_engine.decoding.segments import Segment
from tests.sda_engine.decoding.architectures import states_of

SHAPES = (((2, 3), (2, 5)), ((1, 4), (1, 4)))  # (keys, values) of each layer as (heads, size)
DTYPES = (torch.float32, torch.bfloat16)
CPU = torch.device("cpu")


def states(token_ids):
    """Per layer (keys, values), both (heads, tokens, size): every number of a token's states is the token."""
    tokens = torch.tensor(list(token_ids), dtype=torch.float32)[None, :, None]
    return [
        tuple(tokens.expand(heads, -1, size).to(dtype) for heads, size in layer)
        for layer, dtype in zip(SHAPES, DTYPES, strict=True)
    ]


def run(*segments, layers=2):
    """What the layers of a forward pass do; nothing is appended where not all of them come to it."""
    forward_pass = ForwardPass([Segment(*segment) for segment in segments], CPU)
    new = [token for _, token_ids in segments for token in token_ids]
    for layer, (keys, values) in enumerate(states(new)[:layers]):
        forward_pass.write(layer, keys, values)
    if layers == 2:
        for row, token_ids in segments:
            row.append(token_ids)


def filled(token_ids, memory=None, tail=8):
    row = Row(memory or RowMemory(tail))
    if token_ids:
        run((row, list(token_ids)))
    return row


def assert_holds(row, token_ids):
    token_ids = list(token_ids)
    assert row.token_ids == token_ids
    assert row.length == len(token_ids) == row.tail + sum(map(len, row.pieces))
    for layer, right in zip(states_of(row), states(token_ids), strict=True):
        for state, expected in zip(layer, right, strict=True):
            assert state.dtype == expected.dtype
            assert torch.equal(state, expected)


def test_a_new_row_holds_nothing():
    row = Row(RowMemory())
    assert row.length == 0
    assert row.cut(0, 0) == []
    assert row.memory.tokens == row.memory.row_tokens == 0


@pytest.mark.parametrize("tail", [1, 3, 8])
def test_tokens_are_appended_piece_by_piece(tail):
    row = Row(RowMemory(tail))
    for start, stop in ((1, 3), (3, 4), (4, 6), (6, 20), (20, 21), (21, 30)):
        run((row, list(range(start, stop))))
        assert_holds(row, range(1, stop))
    assert row.tail <= tail


def test_a_few_tokens_go_into_the_tail_and_many_into_a_block_of_their_own():
    row = filled([1, 2], tail=4)
    assert (row.tail, len(row.pieces)) == (2, 0)
    run((row, [3, 4, 5, 6, 7]))
    assert [len(piece) for piece in row.pieces] == [2, 5]
    assert row.tail == 0
    run((row, [8]))
    assert (row.tail, len(row.pieces)) == (1, 2)
    assert_holds(row, range(1, 9))


def test_a_long_answer_comes_to_stand_in_few_blocks():
    row = Row(RowMemory(tail=4))
    for token in range(1, 1000):
        run((row, [token]))
    assert len(row.pieces) < 12
    assert_holds(row, range(1, 1000))


@pytest.mark.parametrize("tail", [2, 8])
@pytest.mark.parametrize("layers", [0, 1])
def test_a_pass_that_fails_in_the_middle_leaves_the_row_as_it_was(layers, tail):
    row = filled([1, 2], tail=tail)
    run((row, [7, 8, 9]), layers=layers)
    assert_holds(row, [1, 2])
    run((row, [3]))
    assert_holds(row, [1, 2, 3])


@pytest.mark.parametrize("tail", [2, 8])
def test_a_first_pass_that_fails_in_the_middle_leaves_a_row_that_can_be_written(tail):
    row = Row(RowMemory(tail))
    run((row, [7, 8, 9]), layers=1)
    run((row, [1, 2]))
    assert_holds(row, [1, 2])


@pytest.mark.parametrize("allocation", [0, 1, 2, 3])
def test_a_pass_that_finds_no_memory_for_longer_tails_leaves_the_rows_as_they_were(monkeypatch, allocation):
    memory = RowMemory(tail=200)
    one, two = filled([1, 2], memory), filled([5], memory)
    make, allocations = slots._grown, []

    def grown_or_none(*args):
        allocations.append(args)
        if len(allocations) > allocation:
            raise RuntimeError("out of memory")
        return make(*args)

    with monkeypatch.context() as patch:
        patch.setattr(slots, "_grown", grown_or_none)
        with pytest.raises(RuntimeError, match="out of memory"):
            run((one, list(range(3, 100))), (two, [6]))
    assert_holds(one, [1, 2])
    assert_holds(two, [5])
    run((one, list(range(3, 100))), (two, [6]))
    assert_holds(one, range(1, 100))
    assert_holds(two, [5, 6])


@pytest.mark.parametrize("tail", [1, 3, 8])
def test_a_truncated_row_goes_on_from_what_is_left(tail):
    row = filled([1, 2, 3, 4], tail=tail)
    row.truncate(2)
    assert_holds(row, [1, 2])
    run((row, [7]))
    assert_holds(row, [1, 2, 7])
    row.truncate(5)
    assert_holds(row, [1, 2, 7])
    row.truncate(0)
    assert row.length == 0
    run((row, [9]))
    assert_holds(row, [9])


# --- forks


@pytest.mark.parametrize("tail", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("shared", [1, 2, 3, 4])
def test_a_fork_goes_on_by_itself(tail, shared):
    row = filled([1, 2, 3, 4], tail=tail)
    fork = row.fork(shared)
    run((row, [5]), (fork, [8, 9]))
    row.truncate(1)
    run((row, [6]), (fork, [7]))
    assert_holds(fork, [*range(1, shared + 1), 8, 9, 7])
    assert_holds(row, [1, 6])


@pytest.mark.parametrize("tail", [1, 2, 3, 5, 8, 16])
@pytest.mark.parametrize("before", [0, 1, 3])
def test_a_fork_gets_what_its_row_writes_in_the_same_pass(tail, before):
    row = filled([1, 2, 3][:before], tail=tail)
    text = [1, 2, 3, 4, 5, 6]
    fork = row.fork(5, text)
    run((row, text[before:]), (fork, [8, 9]))
    assert_holds(row, text)
    assert_holds(fork, [1, 2, 3, 4, 5, 8, 9])
    run((fork, [7]), (row, [7]))
    assert_holds(row, [*text, 7])
    assert_holds(fork, [1, 2, 3, 4, 5, 8, 9, 7])


@pytest.mark.parametrize("tail", [2, 8])
def test_a_fork_whose_first_pass_fails_takes_it_again(tail):
    row = filled([1, 2, 3], tail=tail)
    fork = row.fork(3)
    run((row, [4]), (fork, [8, 9]), layers=1)
    run((fork, [8, 9]))
    assert_holds(fork, [1, 2, 3, 8, 9])
    assert_holds(row, [1, 2, 3])


def test_rows_that_share_a_long_beginning_hold_it_once():
    memory = RowMemory(tail=4)
    row = filled(range(1, 101), memory)
    forks = [row.fork(100) for _ in range(8)]
    run(*((fork, [200 + place]) for place, fork in enumerate(forks)))
    assert memory.tokens == memory.row_tokens == 108
    for place, fork in enumerate(forks):
        assert_holds(fork, [*range(1, 101), 200 + place])
    del row, fork
    forks.clear()
    gc.collect()
    assert memory.tokens == 0


# --- states that are known


@pytest.mark.parametrize("tail", [1, 2, 4, 8])
def test_a_row_is_loaded_from_pieces(tail):
    memory = RowMemory(tail)
    pieces = [
        make_piece(states(token_ids), len(token_ids), memory.ledger) for token_ids in ([1, 2], [3], [4, 5, 6], [7])
    ]
    row = Row(memory)
    row.load(range(1, 8), pieces)
    assert row.length == 7
    run((row, [8, 9]))
    assert_holds(row, range(1, 10))


def test_a_long_piece_is_shared_and_not_copied():
    memory = RowMemory(tail=4)
    long, short = (make_piece(states(token_ids), len(token_ids), memory.ledger) for token_ids in (range(1, 11), [11]))
    loaded = [Row(memory) for _ in range(3)]
    for row in loaded:
        row.load(range(1, 12), [long, short])
    run(*((row, [12]) for row in loaded))
    assert all(row.pieces == [long] for row in loaded)
    assert memory.row_tokens == 10 + 3 * 2
    for row in loaded:
        assert_holds(row, range(1, 13))


def test_loading_nothing_leaves_a_row_empty():
    row = Row(RowMemory())
    row.load([], [])
    assert row.length == 0
    run((row, [1]))
    assert_holds(row, [1])


# --- slots


def test_rows_that_come_and_go_never_see_each_others_tails():
    memory = RowMemory(tail=6)
    generator = torch.Generator().manual_seed(7)

    def number(most):
        return int(torch.randint(most, (1,), generator=generator))

    living = {}
    for turn in range(300):
        if number(3) == 0 or not living:
            living[turn] = (Row(memory), [])
        if number(4) == 0 and len(living) > 1:
            del living[sorted(living)[number(len(living))]]
        names = [name for name in sorted(living) if number(2)] or [min(living)]
        if number(2):
            names.reverse()  # slots are arranged anew
        segments = []
        for name in names:
            row, text = living[name]
            new = [1000 * (turn % 7) + number(900) for _ in range(1 + number(3))]
            segments.append((row, new))
            text += new
        run(*segments)
        for name in names[:1]:
            row, text = living[name]
            row.truncate(row.length - number(2))
            del text[row.length :]
        for row, text in living.values():
            assert row.token_ids == text
    held = [(row, text) for row, text in living.values() if text]
    assert len(held) > 3
    for row, text in held:
        expected = states([token % 256 for token in text])  # what bfloat16 holds exactly
        for layer, right in zip(states_of(row), expected, strict=True):
            assert layer[0].shape == right[0].shape
        assert torch.equal(states_of(row)[0][0], states(text)[0][0])


def test_what_a_row_has_left_in_its_slot_is_gone_before_another_row_gets_it():
    memory = RowMemory(tail=8)
    first = Row(memory)
    forward_pass = ForwardPass([Segment(first, [1, 2, 3])], CPU)
    for layer, (keys, values) in enumerate(states([1, 2, 3])):
        forward_pass.write(layer, keys * float("nan"), values * float("nan"))
    first.append([1, 2, 3])
    del first, forward_pass
    gc.collect()
    second = Row(memory)
    run((second, [7]))
    assert second.slot == 0
    for layer in range(2):
        assert not any(state.isnan().any() for state in memory.slots.layer(layer))


def test_the_memory_of_slots_is_given_back_once_no_row_is_left():
    memory = RowMemory()
    row = filled([1, 2, 3], memory)
    memory.slots.give_back()
    assert memory.slots.layers == 2  # a row is there
    del row
    gc.collect()
    memory.slots.give_back()
    assert memory.slots.layers == 0
    assert_holds(filled([1, 2], memory), [1, 2])
