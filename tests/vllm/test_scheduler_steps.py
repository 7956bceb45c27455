"""The rows of a group from step to step: admitted, held, preempted and ended as one."""

import logging
from concurrent.futures import Future

import pytest
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.engine import FinishReason
from vllm.v1.request import RequestStatus

from sda_integrations.vllm.blocks import KVBlocks
from tests.vllm.small_engine import SmallEngine
from tests.vllm.small_vllm import Machine, make_request

ABORTED = RequestStatus.FINISHED_ABORTED
BOTH = pytest.mark.parametrize("asynchronous", [False, True], ids=["synchronous", "asynchronous"])


def group(name, base, hidden, *, machine, **given):
    """A group of two rows, with prompts of so many tokens."""
    number = 20 + int(name) if name.isdigit() else 30
    return make_request(name, [number] * base, rows={"instructed": [number + 1] * hidden}, machine=machine, **given)


def read(engine, step):
    """How many tokens of each row were read in a step."""
    return engine.scheduled[step].num_scheduled_tokens


def running(engine):
    return [one.request_id for one in engine.scheduler.running]


def test_the_shorter_prompt_waits_one_token_before_its_end_for_the_longer_one():
    machine = Machine(tokens_per_step=16)
    engine = SmallEngine(machine)
    engine.add(group("1", 6, 30, machine=machine, max_tokens=1))
    engine.run()
    assert [read(engine, step) for step in range(4)] == [
        {"1": 5, "1/sda/instructed": 11},
        {"1/sda/instructed": 16},
        {"1/sda/instructed": 2},
        {"1": 1, "1/sda/instructed": 1},
    ]


def test_a_prompt_that_the_cache_holds_is_read_but_for_two_tokens_at_least():
    machine = Machine()
    engine = SmallEngine(machine)
    engine.add(group("1", 13, 17, machine=machine, max_tokens=1))
    engine.run()
    first = len(engine.scheduled)
    again = make_request("2", [21] * 13, rows={"instructed": [22] * 17}, machine=machine, max_tokens=1)
    engine.add(again)
    engine.run().check_nothing_is_left()
    assert read(engine, first) == {"2": 13 - 8 - 1, "2/sda/instructed": 17 - 12 - 1}
    assert engine.tokens["2"] == engine.tokens["1"]


def test_a_prefix_that_the_rows_share_is_computed_once():
    machine = Machine()
    engine = SmallEngine(machine)
    engine.add(make_request("1", [9] * 20 + [1, 2], rows={"instructed": [9] * 20 + [3, 4, 5]}, machine=machine))
    engine.step()
    assert read(engine, 0) == {"1": 21, "1/sda/instructed": 2}


@BOTH
def test_a_group_that_finds_too_few_places_is_not_half_admitted_and_not_overtaken(asynchronous):
    machine = Machine(asynchronous=asynchronous, sequences=3)
    engine = SmallEngine(machine)
    engine.add(*(make_request(f"plain {one}", [one] * 4, machine=machine, max_tokens=6) for one in (7, 8)))
    engine.add(group("1", 4, 4, machine=machine), make_request("late", [9] * 4, machine=machine))
    engine.step()
    assert running(engine) == ["plain 7", "plain 8"]
    engine.run().check_nothing_is_left()
    first = {name: step for step in reversed(range(len(engine.scheduled))) for name in read(engine, step)}
    assert first["1"] == first["1/sda/instructed"] <= first["late"]


def test_nobody_is_admitted_between_the_rows_of_a_group():
    machine = Machine(tokens_per_step=16)
    engine = SmallEngine(machine)
    engine.add(group("1", 40, 30, machine=machine), make_request("late", [9, 9], machine=machine))
    engine.step()
    engine.scheduler.waiting.prepend_request(engine.scheduler.waiting.pop())  # as after a preemption
    assert [one.request_id for one in engine.scheduler.waiting] == ["late", "1/sda/instructed"]
    engine.step()
    engine.step()
    assert running(engine) == ["1", "1/sda/instructed"]
    engine.run().check_nothing_is_left()


@BOTH
def test_the_youngest_group_is_preempted_as_a_whole(asynchronous):
    """Two groups of two rows have ten blocks, and need 16 to hold a prompt of 4 and an answer of 12 in each row."""
    machine = Machine(asynchronous=asynchronous, blocks=1 + 10)
    engine = SmallEngine(machine)
    given = {"machine": machine, "max_tokens": 12, "stops": False}
    old, young = group("1", 4, 4, arrival_time=1.0, **given), group("2", 4, 4, arrival_time=2.0, **given)
    engine.add(old, young)
    both = engine.scheduler._groups["2"].rows
    engine.run().check_nothing_is_left()
    assert old.num_preemptions == 0
    assert [row.num_preemptions for row in both] == [both[0].num_preemptions] * 2 > [0, 0]
    alone = SmallEngine(machine)
    alone.add(group("2", 4, 4, **given))
    assert engine.tokens["2"] == alone.run().tokens["2"]


@BOTH
def test_a_plain_request_that_is_younger_than_a_group_gives_way_to_it(asynchronous):
    machine = Machine(asynchronous=asynchronous, blocks=1 + 8, window=32)
    engine = SmallEngine(machine)
    old = group("1", 4, 4, machine=machine, max_tokens=12, arrival_time=1.0, stops=False)
    young = make_request("young", [9] * 4, machine=machine, max_tokens=28, arrival_time=2.0, stops=False)
    engine.add(old, young)
    engine.run().check_nothing_is_left()
    assert old.num_preemptions == 0
    assert young.num_preemptions > 0
    assert [len(engine.tokens[name]) for name in ("1", "young")] == [12, 28]


@BOTH
def test_a_group_that_is_younger_than_a_plain_request_gives_way_to_it(asynchronous):
    machine = Machine(asynchronous=asynchronous, blocks=1 + 8, window=32)
    engine = SmallEngine(machine)
    old = make_request("old", [9] * 4, machine=machine, max_tokens=28, arrival_time=1.0, stops=False)
    young = group("1", 4, 4, machine=machine, max_tokens=12, arrival_time=2.0, stops=False)
    engine.add(old, young)
    engine.run().check_nothing_is_left()
    assert old.num_preemptions == 0
    assert young.num_preemptions > 0
    assert [len(engine.tokens[name]) for name in ("1", "old")] == [12, 28]


def test_a_row_that_vllm_preempts_takes_its_group_along():
    machine = Machine(tokens_per_step=16)
    engine = SmallEngine(machine)
    engine.add(group("1", 40, 40, machine=machine))
    for _ in range(4):
        engine.step()
    assert running(engine) == ["1", "1/sda/instructed"]
    engine.scheduler._preempt_request(engine.scheduler.running.pop(), 0.0)
    engine.step()
    assert running(engine) == []
    assert read(engine, -1) == {}
    engine.run().check_nothing_is_left()
    assert engine.ends["1"] is not FinishReason.ERROR


@BOTH
def test_a_reset_of_the_prefix_cache_changes_no_token(asynchronous):
    machine = Machine(asynchronous=asynchronous, tokens_per_step=16)
    reset, calm = SmallEngine(machine), SmallEngine(machine)
    for engine in (reset, calm):
        engine.add(group("1", 9, 30, machine=machine, max_tokens=20), make_request("2", [9] * 5, machine=machine))
        for step in range(30):
            if engine is reset and step % 7 == 2:
                assert engine.scheduler.reset_prefix_cache(reset_running_requests=True)
            engine.step()
        engine.run().check_nothing_is_left()
    assert reset.tokens == calm.tokens


def test_a_half_admitted_group_gives_way_when_vllm_waits_for_those_that_run():
    machine = Machine(tokens_per_step=16)
    engine = SmallEngine(machine)
    engine.add(group("1", 40, 40, machine=machine))
    engine.step()
    engine.scheduler.set_pause_state(PauseState.PAUSED_NEW)
    for _ in range(3):
        engine.step()
    assert engine.scheduler.get_num_unfinished_requests() == 0
    engine.scheduler.set_pause_state(PauseState.UNPAUSED)
    engine.run().check_nothing_is_left()
    assert engine.ends["1"] is not FinishReason.ERROR


@BOTH
def test_clients_are_told_of_their_own_rows_alone(asynchronous):
    machine = Machine(asynchronous=asynchronous, clients=True)
    engine = SmallEngine(machine)
    engine.add(group("1", 9, 12, machine=machine, client_index=1), group("2", 9, 12, machine=machine, client_index=3))
    told = []
    while not engine.is_idle:
        told.append(engine.step())
    assert {client for one in told for client in one} <= {0, 1, 3}
    assert {client for one in told for client, outputs in one.items() if outputs.outputs} == {1, 3}
    finished = {client: set() for client in (0, 1, 3)}
    for one in told:
        for client, outputs in one.items():
            finished[client] |= outputs.finished_requests or set()
    assert finished == {0: set(), 1: {"1"}, 3: {"2"}}
    assert all(any(outputs.scheduler_stats for outputs in one.values()) for one in told if one)


@BOTH
@pytest.mark.parametrize("steps", range(6))
def test_an_abort_ends_all_rows_whenever_it_comes(asynchronous, steps):
    machine = Machine(asynchronous=asynchronous, tokens_per_step=16, clients=True)
    engine = SmallEngine(machine)
    engine.add(group("1", 9, 30, machine=machine, max_tokens=100), group("2", 9, 9, machine=machine))
    for _ in range(steps):
        engine.step()
    assert [one.request_id for one in engine.scheduler.finish_requests(["1", "unknown"], ABORTED)] == ["1"]
    assert not engine.scheduler.finish_requests("1", ABORTED)
    engine.run().check_nothing_is_left()
    assert set(engine.ends) == {"2"}


def test_ending_everything_tells_of_the_requests_of_clients():
    machine = Machine()
    engine = SmallEngine(machine)
    engine.add(group("1", 9, 30, machine=machine), make_request("2", [9] * 5, machine=machine))
    engine.step()
    assert [one.request_id for one in engine.scheduler.finish_requests(None, ABORTED)] == ["1", "2"]
    engine.run().check_nothing_is_left()


@BOTH
def test_a_group_waits_for_its_grammar_and_lets_others_pass(asynchronous):
    machine = Machine(asynchronous=asynchronous)
    engine = SmallEngine(machine)
    slow = group("1", 9, 12, machine=machine, grammar=True)
    slow.structured_output_request.grammar = grammar = Future()
    engine.add(slow, make_request("late", [9] * 5, machine=machine, max_tokens=3))
    for _ in range(10):
        engine.step()
    assert set(engine.ends) == {"late"}
    grammar.set_result(object())
    engine.run().check_nothing_is_left()
    assert engine.ends["1"] in (FinishReason.STOP, FinishReason.LENGTH)


@BOTH
def test_a_grammar_that_cannot_be_had_ends_the_group(asynchronous):
    machine = Machine(asynchronous=asynchronous)
    engine = SmallEngine(machine)
    wrong = group("1", 9, 12, machine=machine, grammar=True)
    wrong.structured_output_request.grammar = grammar = Future()
    engine.add(wrong)
    engine.step()
    grammar.set_exception(ValueError("no grammar"))
    engine.run().check_nothing_is_left()
    assert engine.ends == {"1": FinishReason.ERROR}


@BOTH
def test_a_token_that_the_grammar_does_not_take_ends_all_rows(asynchronous):
    machine = Machine(asynchronous=asynchronous)
    engine = SmallEngine(machine)
    engine.add(group("1", 9, 12, machine=machine), group("2", 9, 12, machine=machine))
    engine.scheduler.structured_output_manager.refused.add("1")
    engine.run().check_nothing_is_left()
    assert engine.ends["1"] is FinishReason.ERROR
    assert engine.ends["2"] is not FinishReason.ERROR


@BOTH
def test_rows_that_got_different_tokens_end_as_an_error_before_a_client_sees_one(asynchronous, caplog):
    machine = Machine(asynchronous=asynchronous)
    engine = SmallEngine(machine)
    engine.worker.wrong_groups.add("1")
    engine.add(group("1", 9, 12, machine=machine, client_index=1), group("2", 9, 12, machine=machine))
    with caplog.at_level(logging.ERROR):
        engine.run().check_nothing_is_left()
    assert engine.ends["1"] is FinishReason.ERROR
    assert engine.tokens["1"] == []
    assert engine.outputs["1"].stop_reason.startswith("LockStepError: the rows of the group got the tokens")
    assert "Request 1 ends as an error. LockStepError" in caplog.text
    assert engine.ends["2"] is not FinishReason.ERROR


@BOTH
def test_a_group_of_which_only_a_part_samples_ends_as_an_error_and_the_engine_goes_on(
    asynchronous, caplog, monkeypatch
):
    """As it would be if the count of blocks were wrong: vLLM itself then preempts one row of two in the same step."""
    monkeypatch.setattr(KVBlocks, "for_next_tokens", lambda self, requests: 0)
    machine = Machine(asynchronous=asynchronous, blocks=1 + 7, reserve=False)
    engine = SmallEngine(machine)
    given = {"machine": machine, "max_tokens": 9, "stops": False}
    engine.add(group("1", 4, 4, **given), group("2", 4, 4, **given))
    with caplog.at_level(logging.ERROR):
        engine.run().check_nothing_is_left()
    assert engine.worker.out_of_step
    assert engine.ends["2"] is FinishReason.ERROR
    assert engine.outputs["2"].stop_reason == "LockStepError: only some rows of the group were to sample"
    assert engine.outputs["2"].stop_reason in caplog.text
    assert engine.ends["1"] is FinishReason.LENGTH
    assert len(engine.tokens["1"]) == 9


def test_a_hidden_row_that_ends_before_the_others_ends_the_group_as_an_error():
    machine = Machine()
    engine = SmallEngine(machine)
    engine.add(group("1", 9, 12, machine=machine, max_tokens=9))
    engine.scheduler._groups["1"].rows[1].max_tokens = 2
    engine.run().check_nothing_is_left()
    assert engine.ends == {"1": FinishReason.ERROR}
    assert "ended before the client's own" in engine.outputs["1"].stop_reason
