import pytest
import torch

from sda_engine.decoding import rows
from sda_engine.decoding.rows import Row

SHAPES = (((2, 3), (2, 5)), ((1, 4), (1, 4)))  # (keys, values) of each layer as (heads, size)
DTYPES = (torch.float32, torch.bfloat16)


def states_of(token_ids):
    """Per layer (keys, values), both (heads, tokens, size): every number of a token's states is the token."""
    tokens = torch.tensor(list(token_ids), dtype=torch.float32)[None, :, None]
    return [
        tuple(tokens.expand(heads, -1, size).to(dtype) for heads, size in layer)
        for layer, dtype in zip(SHAPES, DTYPES, strict=True)
    ]


def write(row, token_ids, layers=2):
    """What the layers of a forward pass do; returns what the last of them attends to."""
    for layer, (keys, values) in enumerate(states_of(token_ids)[:layers]):
        seen = row.write(layer, keys.unsqueeze(0), values.unsqueeze(0))
    return seen


def filled(token_ids, capacity=8):
    row = Row(capacity)
    write(row, token_ids)
    row.append(token_ids)
    return row


def assert_holds(row, token_ids):
    token_ids = list(token_ids)
    assert row.token_ids == token_ids
    assert row.length == len(token_ids)
    for (keys, values), (right_keys, right_values) in zip(row.states(), states_of(token_ids), strict=True):
        assert (keys.dtype, values.dtype) == (right_keys.dtype, right_values.dtype)
        assert torch.equal(keys, right_keys)
        assert torch.equal(values, right_values)


def test_a_new_row_holds_nothing():
    assert Row(8).length == 0
    assert list(Row(8).states()) == []


def test_written_states_count_once_their_tokens_are_appended():
    row = Row(8)
    write(row, [1, 2])
    assert row.length == 0
    row.append([1, 2])
    assert_holds(row, [1, 2])


def test_a_layer_attends_to_the_tokens_that_are_there_and_those_that_it_writes():
    keys, values = write(filled([1, 2]), [3, 4, 5])
    assert keys.shape == (1, 1, 5, 4)
    assert keys[0, 0, :, 0].tolist() == values[0, 0, :, 0].tolist() == [1, 2, 3, 4, 5]


def test_tokens_are_appended_piece_by_piece():
    row = filled([1, 2])
    for piece in ([3], [4, 5], [6]):
        write(row, piece)
        row.append(piece)
    assert_holds(row, range(1, 7))


@pytest.mark.parametrize("layers", [1, 2])
def test_a_pass_that_fails_in_the_middle_leaves_the_row_as_it_was(layers):
    row = filled([1, 2], capacity=3)
    write(row, [7, 8, 9], layers)  # nothing is appended, whichever layer it came to
    assert_holds(row, [1, 2])
    write(row, [3])
    row.append([3])
    assert_holds(row, [1, 2, 3])


def test_a_first_pass_that_fails_in_the_middle_leaves_a_row_that_can_be_written():
    row = Row(8)
    write(row, [7, 8, 9], layers=1)
    write(row, [1, 2])
    row.append([1, 2])
    assert_holds(row, [1, 2])


@pytest.mark.parametrize("before", [[], [1, 2]])
@pytest.mark.parametrize("allocation", [0, 1, 2, 3])
def test_a_write_that_finds_no_memory_leaves_the_row_as_it_was(monkeypatch, before, allocation):
    row = filled(before, capacity=2) if before else Row(2)
    make_buffer, allocations = rows._buffer, []

    def buffer_or_none(like, capacity):
        allocations.append(capacity)
        if len(allocations) > allocation:
            raise RuntimeError("out of memory")
        return make_buffer(like, capacity)

    with monkeypatch.context() as patch:
        patch.setattr(rows, "_buffer", buffer_or_none)
        with pytest.raises(RuntimeError, match="out of memory"):
            write(row, [7, 8, 9])
    assert row.token_ids == before
    write(row, [3, 4, 5])
    row.append([3, 4, 5])
    assert_holds(row, [*before, 3, 4, 5])


def test_a_truncated_row_goes_on_from_what_is_left():
    row = filled([1, 2, 3, 4])
    row.truncate(2)
    assert_holds(row, [1, 2])
    write(row, [7])
    row.append([7])
    assert_holds(row, [1, 2, 7])
    row.truncate(5)
    assert_holds(row, [1, 2, 7])
    row.truncate(0)
    assert row.length == 0


def test_a_row_grows_past_its_capacity():
    row = filled([1, 2], capacity=2)
    for token in range(3, 40):
        write(row, [token])
        row.append([token])
    assert_holds(row, range(1, 40))


def test_a_row_that_has_room_is_written_where_it_stands():
    row = filled([1, 2], capacity=4)
    before = [state.data_ptr() for layer in row.states() for state in layer]
    for token in (3, 4):
        write(row, [token])
        row.append([token])
    assert [state.data_ptr() for layer in row.states() for state in layer] == before


def test_a_fork_shares_no_memory_with_its_row():
    row = filled([1, 2, 3, 4])
    fork = row.fork([1, 2], capacity=6)
    write(fork, [8, 9])
    fork.append([8, 9])
    row.truncate(1)
    write(row, [5])
    row.append([5])
    assert_holds(fork, [1, 2, 8, 9])
    assert_holds(row, [1, 5])


def test_a_row_is_loaded_from_pieces():
    row = Row(8)
    row.load([1, 2, 3], [states_of([1, 2]), states_of([3])])
    assert_holds(row, [1, 2, 3])
    row.load([4], [states_of([4])])
    assert_holds(row, [1, 2, 3, 4])


def test_what_was_loaded_is_a_copy():
    states = [tuple(state.clone() for state in layer) for layer in states_of([1, 2])]
    row = Row(8)
    row.load([1, 2], [states])
    for keys, values in states:
        keys.fill_(-1)
        values.fill_(-1)
    assert_holds(row, [1, 2])


def test_loading_nothing_leaves_a_row_empty():
    row = Row(8)
    row.load([], [])
    assert row.length == 0
