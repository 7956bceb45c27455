"""The simulation as a whole."""

from itertools import pairwise

import pytest

from sda_integrations.vllm.plan.simulation.replica import EngineShape
from sda_integrations.vllm.plan.simulation.simulate import Load, simulate
from sda_integrations.vllm.plan.simulation.step_times import StepTimes
from sda_integrations.vllm.plan.simulation.table import COLUMNS, table_rows
from sda_integrations.vllm.plan.simulation.traffic import Traffic, turns_of

SHAPE = EngineShape(StepTimes(base=0.03, row=0.003, prefill_token=0.0006, kv_token=1e-6), blocks=2000)
STEERED = EngineShape(SHAPE.times, blocks=2000, rows=2)
LOAD = Load(replicas=4, users=12, seconds=60)


def test_the_same_seed_repeats_the_same_figures():
    one, again = (simulate(STEERED, "random", Traffic(), LOAD) for _ in range(2))
    other = simulate(STEERED, "random", Traffic(), Load(4, 12, 60, seed=1))
    assert one == again
    assert one.tokens != other.tokens


def test_a_user_asks_the_same_whatever_the_replicas_do():
    first, again = (turns_of(3, Traffic(), 0) for _ in range(2))
    asked = [next(first) for _ in range(20)]
    assert asked == [next(again) for _ in range(20)]
    conversations = [request.conversation for _, request in asked]
    assert len(set(conversations)) == 4, "of six turns, and the last of two"
    assert all(one.prompt + one.answer < two.prompt for (_, one), (_, two) in pairwise(asked[:6]))


def test_the_second_row_costs_tokens_and_less_than_half_of_them():
    plain, steered = (simulate(shape, "by prefix", Traffic(), LOAD) for shape in (SHAPE, STEERED))
    assert 0.5 < steered.tokens_per_second / plain.tokens_per_second < 0.95


def test_a_router_that_knows_prefixes_finds_more_of_them_and_answers_sooner():
    known, blind = (simulate(STEERED, router, Traffic(), LOAD) for router in ("by prefix", "least loaded"))
    assert known.hit_rate > 2 * blind.hit_rate
    assert known.tokens_per_second > blind.tokens_per_second


def test_with_one_replica_routers_are_all_alike():
    load = Load(1, 12, 60)
    outcomes = [simulate(STEERED, router, Traffic(), load) for router in ("random", "least loaded", "by prefix")]
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_a_user_has_one_request_at_a_time_and_it_is_answered_by_one_replica():
    outcome = simulate(STEERED, "random", Traffic(), LOAD)
    turns = [(answer.request.conversation, answer.request.prompt) for answer in outcome.answers]
    assert len(set(turns)) == len(turns), "no group is counted twice, as it would be if its rows were apart"
    assert {answer.replica for answer in outcome.answers} == {0, 1, 2, 3}


def test_tokens_are_no_more_than_the_steps_could_give():
    outcome = simulate(SHAPE, "least loaded", Traffic(pause=0.01), LOAD)
    per_step = 12 / SHAPE.times.seconds(12, 0, 12 * 600)
    assert outcome.tokens_per_second < 4 * 1.5 * per_step
    assert outcome.tokens == pytest.approx(sum(one.request.answer for one in outcome.answers), rel=0.2)


def test_the_table_compares_both_through_each_router():
    rows = list(table_rows(STEERED, Traffic(), Load(2, 4, 20)))
    assert [row[:2] for row in rows] == [
        [f"2, {router}", n] for router in ("random", "least loaded", "by prefix") for n in "12"
    ]
    assert all(len(row) == len(COLUMNS) for row in rows)
    assert [row[3] for row in rows[::2]] == ["1.00"] * 3
