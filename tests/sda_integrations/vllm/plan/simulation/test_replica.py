"""One replica, step by step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sda_engine.errors import ConfigError
from sda_integrations.vllm.plan.simulation.prefixes import PrefixStore
from sda_integrations.vllm.plan.simulation.replica import EngineShape, Replica, RowGroup
from sda_integrations.vllm.plan.simulation.step_times import StepTimes
from sda_integrations.vllm.plan.simulation.traffic import Request

TIMES = StepTimes(base=1, row=0.1, prefill_token=0.01, kv_token=0)


def replica(**settings):
    return Replica(0, EngineShape(TIMES, **{"blocks": 1000, **settings}))


def ask(engine, *, prompt=100, answer=2, conversation=0, now=0.0):
    group = RowGroup(Request(0, conversation, prompt, answer), now)
    engine.waiting.append(group)
    return group


def run(engine):
    """All steps: their seconds, and the whole groups of each."""
    now, steps, whole = 0.0, [], []
    while (seconds := engine.begin_step()) is not None:
        now += seconds
        steps.append(seconds)
        whole.append(engine.end_step(now))
    return steps, whole


def test_a_prompt_is_read_and_gives_the_first_token_in_the_same_step():
    engine = replica()
    group = ask(engine)
    steps, whole = run(engine)
    assert steps == pytest.approx([1 + 0.01 * 100, 1 + 0.1])
    assert whole == [[], [group]]
    assert group.first_text == pytest.approx(2)


def test_two_rows_read_what_they_begin_with_once():
    """95 tokens in common are 5 full blocks: the second row computes 140 - 80 tokens."""
    engine = replica(rows=2)
    ask(engine)
    steps, _ = run(engine)
    assert steps == pytest.approx([1 + 0.01 * (100 + 60), 1 + 0.2])


def test_a_long_prompt_is_read_in_pieces_while_others_decode():
    engine = replica(max_tokens=64)
    first, second = ask(engine, prompt=60, answer=5), ask(engine, prompt=100)
    steps, whole = run(engine)
    assert steps[0] == pytest.approx(1 + 0.01 * 64)  # 60, and 4 of the other
    assert steps[1] == pytest.approx(1 + 0.1 + 0.01 * 63)
    assert steps[2] == pytest.approx(1 + 0.1 + 0.01 * 33)
    assert whole == [[], [], [], [second], [first]]


def test_a_group_waits_for_places_for_all_of_its_rows():
    engine = replica(rows=2, max_rows=3)
    first, second = ask(engine), ask(engine)
    engine.begin_step()
    assert engine.running == [first]
    assert list(engine.waiting) == [second]


def test_the_next_turn_finds_the_last_ones_base_row():
    engine = replica(rows=2)
    ask(engine)
    run(engine)
    group = ask(engine, prompt=150)
    run(engine)
    assert group.known == 96  # of 102 tokens, the full blocks


def test_a_stranger_finds_nothing():
    engine = replica(rows=2)
    ask(engine)
    run(engine)
    group = ask(engine, prompt=150, conversation=1)
    run(engine)
    assert group.known == 0


def test_where_blocks_are_short_the_youngest_gives_back_all_of_its_rows_and_goes_on_later():
    """Each takes 7 blocks for its prompt, and at 160 tokens 10: two do not go on together in 16."""
    engine = replica(blocks=16)
    first, second = ask(engine, answer=60), ask(engine, answer=60, conversation=1)
    _, whole = run(engine)
    assert [group for ended in whole for group in ended] == [first, second]
    assert engine.preempted == 1
    assert (first.decoded, second.decoded) == (60, 60)


def test_a_request_that_never_fits_is_refused():
    engine = replica(blocks=3)
    ask(engine)
    with pytest.raises(ConfigError, match="needs 7 blocks, and a replica has 3"):
        engine.begin_step()


@given(
    asked=st.lists(st.tuples(st.integers(1, 200), st.integers(1, 40), st.integers(0, 3)), min_size=1, max_size=8),
    rows=st.integers(1, 3),
    max_tokens=st.sampled_from([16, 64, 2048]),
)
def test_every_request_is_answered_and_no_more_blocks_are_held_than_there_are(asked, rows, max_tokens):
    engine = replica(rows=rows, max_tokens=max_tokens, blocks=60)
    groups = [ask(engine, prompt=prompt, answer=answer, conversation=told) for prompt, answer, told in asked]
    while engine.begin_step() is not None:
        assert engine._held + engine._store.blocks <= 60
        engine.end_step(0.0)
    assert [group.decoded for group in groups] == [answer for _, answer, _ in asked]
    assert engine._held == 0


def test_the_least_recently_used_goes_first_and_its_end_before_its_beginning():
    store = PrefixStore()
    store.put((1, 0), 5)
    store.put((2, 0), 5)
    store.shrink_to(7)
    assert store.take((1, 0)) == 2
    assert store.take((2, 0)) == 5
    assert store.blocks == 0


def test_what_is_put_again_counts_once():
    store = PrefixStore()
    store.put((1, 0), 5)
    store.put((1, 0), 3)
    assert store.blocks == 3
