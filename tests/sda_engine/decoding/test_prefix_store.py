import gc
import itertools
import weakref
import zlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sda_engine.decoding.blocks import cut_pieces, join_pieces, make_piece
from sda_engine.decoding.prefix_store import PrefixStore

LAYERS = (  # (keys, values) of each layer as (heads, size, dtype)
    ((2, 3, torch.float32), (2, 5, torch.bfloat16)),
    ((1, 4, torch.float64), (3, 1, torch.float16)),
)
BYTES_PER_TOKEN = (2 * 3 * 4 + 2 * 5 * 2) + (1 * 4 * 8 + 3 * 1 * 2)


def states_of(ids):
    """States which, as those of a model do, depend on all tokens up to their own."""
    seeds = [zlib.crc32(repr(tuple(ids[: place + 1])).encode()) % 200 for place in range(len(ids))]
    seeds = torch.tensor(seeds, dtype=torch.float64)[None, :, None]

    def state(heads, size, dtype):
        offsets = torch.arange(heads * size).view(heads, 1, size)
        return (seeds + offsets).to(dtype)  # below 256, which all four dtypes hold exactly

    return [(state(*keys), state(*values)) for keys, values in LAYERS]


def insert(store, ids, states=None):
    """Store ids as a row would whose states are all in one block."""
    pieces = [make_piece(states or states_of(ids), len(ids), store.memory.ledger)] if ids else []
    store.insert(ids, lambda start, stop: list(cut_pieces(pieces, start, stop)))


def filled(max_tokens, *entries):
    store = PrefixStore(max_tokens)
    for ids in entries:
        insert(store, ids)
    return store


def assert_reads(store, ids, length):
    pieces = store.read(ids, length)
    if length == 0:
        assert pieces == []
        return
    read = join_pieces(pieces, store.memory.ledger).block.layers
    for (keys, values), (right_keys, right_values) in zip(read, states_of(ids[:length]), strict=True):
        assert keys.dtype == right_keys.dtype
        assert torch.equal(keys, right_keys)
        assert values.dtype == right_values.dtype
        assert torch.equal(values, right_values)


def nodes_of(store):
    waiting = list(store._root.children.values())
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(node.children.values())


def assert_accounts_are_exact(store):
    nodes = list(nodes_of(store))
    assert sum(len(node.token_ids) for node in nodes) == store.tokens
    assert all(len(node.states) == len(node.token_ids) for node in nodes)
    blocks = {node.states.block for node in nodes}
    assert sum(block.tokens for block in blocks) == store.memory.tokens == store.tokens
    held = [state for block in blocks for layer in block.layers for state in layer]
    assert all(state.is_contiguous() for state in held)
    storages = {state.untyped_storage().data_ptr(): state.untyped_storage().nbytes() for state in held}
    assert len(storages) == len(held)
    assert sum(storages.values()) == store.tokens * BYTES_PER_TOKEN


def test_a_new_store_holds_nothing():
    store = PrefixStore(10)
    assert store.tokens == store.match([1, 2]) == 0
    assert store.read([1, 2], 0) == []


def test_a_prompt_matches_as_far_as_it_begins_like_a_stored_one():
    store = filled(10, [1, 2, 3, 4])
    assert store.match([1, 2, 3, 4, 5]) == 4
    assert store.match([1, 2, 3, 4]) == 4
    assert store.match([1, 2]) == 2
    assert store.match([1, 2, 9, 4]) == 2
    assert store.match([2, 3, 4]) == 0
    assert store.match([]) == 0


def test_what_was_stored_reads_back_to_any_length():
    store = filled(10, [1, 2, 3, 4])
    for length in range(5):
        assert_reads(store, [1, 2, 3, 4, 5], length)


def test_entries_share_the_tokens_they_begin_with():
    store = filled(20, [1, 2, 3, 4], [1, 2, 7], [1, 2, 3, 4, 5, 6])
    assert store.tokens == len("1234") + len("7") + len("56")
    for ids in ([1, 2, 3, 4, 5, 6], [1, 2, 7]):
        assert store.match(ids) == len(ids)
        assert_reads(store, ids, len(ids))
    assert_accounts_are_exact(store)


@pytest.mark.parametrize("again", [[1, 2, 3, 4], [1, 2]])
def test_what_is_already_there_is_not_stored_twice(again):
    store = filled(4, [1, 2, 3, 4], again)
    assert store.tokens == store.match([1, 2, 3, 4]) == 4
    assert len(list(nodes_of(store))) == 1


def test_the_store_keeps_only_what_is_new_in_an_entry():
    store = filled(10, [1, 2])
    states = states_of([1, 2, 3])
    for keys, values in states:
        keys[:, :2] = values[:, :2] = -1  # rounding may differ between two computations: the first one stays
    insert(store, [1, 2, 3], states)
    assert_reads(store, [1, 2, 3], 3)


def test_states_in_any_layout_are_stored_contiguously():
    store = PrefixStore(10)
    by_token = [tuple(state.transpose(0, 1).contiguous() for state in layer) for layer in states_of([1, 2, 3])]
    insert(store, [1, 2, 3], [(keys.transpose(0, 1), values.transpose(0, 1)) for keys, values in by_token])
    assert_accounts_are_exact(store)
    assert_reads(store, [1, 2, 3], 3)


def test_a_long_run_is_shared_with_whoever_has_it_and_split_without_a_copy():
    ids = [token % 50 for token in range(1000)]
    store = PrefixStore(3000)
    states = [(torch.zeros(1, 1000, 1), torch.zeros(1, 1000, 1))]
    piece = make_piece(states, 1000, store.memory.ledger)
    store.insert(ids, lambda start, stop: [piece.cut(start, stop)])
    assert store.memory.tokens == 1000
    one = make_piece([(state[:, :1], state[:, :1]) for state, _ in states], 1, store.memory.ledger)
    store.insert([*ids[:700], 77], lambda *_: [one])
    assert (store.tokens, store.memory.tokens) == (1001, 1001)
    read = store.read(ids, 900)
    assert [(part.block is piece.block, len(part)) for part in read] == [(True, 700), (True, 200)]


def test_few_tokens_of_a_large_block_do_not_keep_it_alive():
    store = PrefixStore(3000)
    state = torch.zeros(1, 1000, 1)
    pieces = [make_piece([(state, state)], 1000, store.memory.ledger)]
    store.insert(list(range(100)), lambda start, stop: [pieces[0].cut(start, stop)])
    assert store.memory.tokens == 1100
    pieces.clear()
    assert store.memory.tokens == 100


def test_a_read_copies_nothing():
    store = filled(10, [1, 2, 3, 4])
    (node,) = nodes_of(store)
    (piece,) = store.read([1, 2, 3], 3)
    assert piece.block is node.states.block


def test_reading_more_than_is_stored_is_refused():
    with pytest.raises(AssertionError):
        filled(10, [1, 2]).read([1, 2, 3], 3)


def test_the_least_recently_used_entry_goes_first():
    store = filled(4, [1, 1], [2, 2], [3, 3])
    assert [store.match(ids) for ids in ([1, 1], [2, 2], [3, 3])] == [0, 2, 2]


def test_a_read_is_a_use():
    store = filled(4, [1, 1], [2, 2])
    store.read([1], 1)
    insert(store, [3, 3])
    assert [store.match(ids) for ids in ([1, 1], [2, 2], [3, 3])] == [2, 0, 2]


def test_an_insert_of_what_is_there_is_a_use():
    store = filled(4, [1, 1], [2, 2], [1, 1], [3, 3])
    assert [store.match(ids) for ids in ([1, 1], [2, 2], [3, 3])] == [2, 0, 2]


def test_a_match_is_no_use():
    store = filled(4, [1, 1], [2, 2])
    store.match([1, 1])
    insert(store, [3, 3])
    assert [store.match(ids) for ids in ([1, 1], [2, 2], [3, 3])] == [0, 2, 2]


def test_a_prefix_that_others_go_on_from_outlives_them():
    store = filled(10, [1, 1, 2], [1, 1, 3])
    store.resize(3)
    assert [store.match(ids) for ids in ([1, 1, 2], [1, 1, 3])] == [2, 3]
    store.resize(2)
    assert store.match([1, 1, 3]) == store.tokens == 2
    store.resize(1)
    assert store.tokens == 0


def test_the_rest_of_a_split_entry_is_as_recently_used_as_before():
    store = filled(6, [1, 1, 2], [4, 4], [1, 1, 3])
    assert store.tokens == 6
    insert(store, [5])
    assert [store.match(ids) for ids in ([1, 1, 2], [4, 4], [1, 1, 3], [5])] == [2, 2, 3, 1]


def test_an_entry_never_evicts_the_prefix_it_goes_on_from():
    store = filled(5, [1, 2, 3], [8, 8], [1, 2, 3, 4, 5])
    assert store.match([1, 2, 3, 4, 5]) == store.tokens == 5
    assert_reads(store, [1, 2, 3, 4, 5], 5)


@pytest.mark.parametrize("before", [[], [1, 2], [1, 2, 9], [9, 9, 9]])
def test_of_an_entry_that_is_too_long_the_beginning_is_stored(before):
    store = filled(3, before, [1, 2, 3, 4, 5])
    assert store.match([1, 2, 3, 4, 5]) == store.tokens == 3
    assert_reads(store, [1, 2, 3], 3)
    assert_accounts_are_exact(store)


def test_a_store_of_no_tokens_stores_nothing():
    store = filled(0, [1, 2, 3], [])
    assert store.tokens == store.match([1, 2, 3]) == 0


def test_resizing_evicts_at_once_and_sets_the_capacity_from_then_on():
    store = filled(4, [1, 1], [2, 2])
    store.resize(2)
    assert [store.match(ids) for ids in ([1, 1], [2, 2])] == [0, 2]
    insert(store, [3, 3])
    assert [store.match(ids) for ids in ([2, 2], [3, 3])] == [0, 2]
    store.resize(6)
    assert store.tokens == 2
    insert(store, [4, 4, 4])
    assert [store.match(ids) for ids in ([3, 3], [4, 4, 4])] == [2, 3]


def test_clearing_evicts_everything():
    store = filled(10, [1, 1, 2], [1, 1, 3], [4])
    store.clear()
    assert store.tokens == store.match([1, 1, 2]) == 0
    assert list(nodes_of(store)) == []
    insert(store, [1, 1, 2])
    assert store.match([1, 1, 2]) == 3


def test_what_is_evicted_is_freed_at_once():
    store = filled(10, [1, 1, 2], [1, 1, 3], [4])
    held = [weakref.ref(node.states.block) for node in nodes_of(store)]
    gc.disable()
    try:
        store.resize(3)
        assert sum(block() is not None for block in held) == 2  # of [1, 1] and of [4]
        del store
        assert all(block() is None for block in held)
    finally:
        gc.enable()


def test_a_long_chain_of_ever_longer_entries_reads_back_in_pieces():
    conversation = [token % 7 for token in range(60)]
    store = filled(100, *(conversation[:length] for length in range(1, 61)))
    assert store.tokens == 60
    assert len(store.read(conversation, 55)) == 55
    assert_reads(store, conversation, 55)


def test_after_ten_thousand_unique_entries_the_store_is_full_and_holds_the_last():
    store = PrefixStore(1_000)
    state = torch.zeros(1, 30, 1)
    entries = [[number % 10, number, *range(28)] for number in range(10_000)]
    for ids in entries:
        insert(store, ids, [(state, state)])
        assert store.tokens <= 1_000
    assert store.match(entries[-1]) == 30
    assert store.match(entries[0]) == 1
    assert len(list(nodes_of(store))) == len(store._parents) < 50


class Oracle:
    """What a store should hold, as plain tuples.

    A node is known by the whole prefix that ends with it, and a prefix is stored if any node's begins with it.
    """

    def __init__(self, max_tokens):
        self.max_tokens = max_tokens
        self.used = {}  # when each node was last used
        self.clock = itertools.count()

    def prefixes(self):
        return {end[:length] for end in self.used for length in range(1, len(end) + 1)}

    def match(self, ids):
        return sum(ids[:length] in self.prefixes() for length in range(1, len(ids) + 1))

    def use(self, ids):
        now = next(self.clock)
        starts = [end for end in self.used if ids[: len(end)] == end]
        inside = [end for end in self.used if end[: len(ids)] == ids]
        if ids:
            for end in {*starts, min(inside, key=len)}:
                self.used[end] = now

    def insert(self, ids):
        held = ids[: self.match(ids)]
        added = min(len(ids), self.max_tokens) - len(held)
        if added <= 0:
            self.use(held)
            return
        if held:
            self.used.setdefault(held, 0)
            self.use(held)
        self.evict_to(self.max_tokens - added)
        self.used[ids[: len(held) + added]] = -1
        self.use(ids[: len(held) + added])

    def resize(self, max_tokens):
        self.max_tokens = max_tokens
        self.evict_to(max_tokens)

    def evict_to(self, max_tokens):
        while len(self.prefixes()) > max_tokens:
            leaves = [end for end in self.used if sum(other[: len(end)] == end for other in self.used) == 1]
            del self.used[min(leaves, key=self.used.__getitem__)]


TOKENS = st.lists(st.integers(0, 2), max_size=9).map(tuple)
STEPS = st.one_of(
    st.tuples(st.just("insert"), TOKENS),
    st.tuples(st.just("read"), TOKENS, st.floats(0, 1)),
    st.tuples(st.just("resize"), st.integers(0, 25)),
)


@given(st.integers(0, 25), st.lists(STEPS, max_size=30), st.lists(TOKENS, min_size=1, max_size=5))
def test_any_sequence_of_uses_leaves_what_a_plain_list_of_prefixes_would_hold(max_tokens, steps, probes):
    store, oracle = PrefixStore(max_tokens), Oracle(max_tokens)
    for kind, argument, *share in steps:
        if kind == "insert":
            insert(store, argument)
            oracle.insert(argument)
        elif kind == "resize":
            store.resize(argument)
            oracle.resize(argument)
        else:
            length = round(share[0] * store.match(argument))
            assert_reads(store, argument, length)
            oracle.use(argument[:length])
        assert store.tokens == len(oracle.prefixes()) <= oracle.max_tokens
        assert [store.match(ids) for ids in probes] == [oracle.match(ids) for ids in probes]
        assert_accounts_are_exact(store)
    for prefix in oracle.prefixes():
        assert store.match(prefix) == len(prefix)
        assert_reads(store, prefix, len(prefix))
