"""What becomes of a request: its rows, what they may answer, and what is refused."""

import copy
import logging

import pytest
from vllm.sampling_params import SamplingParams
from vllm.v1.engine import FinishReason
from vllm.v1.request import Request, RequestStatus

from tests.vllm.fake_worker import chain_of, next_token
from tests.vllm.small_engine import SmallEngine
from tests.vllm.small_vllm import EOS, VOCAB, Machine, make_adapter, make_request, make_scheduler

PROMPT, ROW = [7] * 9, [8] * 13


def rows_of(scheduler, name):
    return list(scheduler._groups[name].rows)


def test_each_row_knows_its_group_its_name_and_the_settings():
    scheduler = make_scheduler(Machine())
    scheduler.add_request(make_request("a", PROMPT, rows={"instructed": ROW, "avoided": [9, 9]}))
    told = [row.sampling_params.extra_args["sda"] for row in rows_of(scheduler, "a")]
    shared = {"settings": {"of": "a"}, "group": "a", "count": 3}
    assert told == [{**shared, "row": name} for name in ("base", "instructed", "avoided")]
    assert [row.prompt_token_ids for row in rows_of(scheduler, "a")] == [PROMPT, ROW, [9, 9]]


def test_hidden_rows_carry_nothing_that_only_the_client_is_to_get():
    scheduler = make_scheduler(Machine())
    request = make_request(
        "a", PROMPT, rows={"instructed": ROW}, grammar=True, trace_headers={"trace": "1"}, priority=3
    )
    request.sampling_params.logprobs = request.sampling_params.prompt_logprobs = 2
    request.sampling_params.seed = 11
    scheduler.add_request(request)
    main, hidden = rows_of(scheduler, "a")
    assert main is request
    assert (main.sampling_params.logprobs, main.sampling_params.structured_outputs is None) == (2, False)
    assert hidden.sampling_params.logprobs is hidden.sampling_params.prompt_logprobs is None
    assert hidden.sampling_params.structured_outputs is hidden.structured_output_request is None
    assert (hidden.sampling_params.seed, hidden.priority, hidden.trace_headers) == (11, 3, None)
    assert (hidden.sampling_params.eos_token_id, hidden.arrival_time) == (EOS, main.arrival_time)


def test_hidden_rows_read_with_the_adapter_and_the_salt_of_their_request():
    machine = Machine(adapters=1)
    scheduler = make_scheduler(machine)
    given = {"lora_request": make_adapter(2), "cache_salt": "mine"}
    scheduler.add_request(make_request("a", ROW, rows={"instructed": ROW}, machine=machine, **given))
    main, hidden = rows_of(scheduler, "a")
    assert (hidden.lora_request, hidden.cache_salt) == (main.lora_request, "mine")
    assert hidden.block_hashes == main.block_hashes != make_request("b", ROW).block_hashes


def test_parameters_that_requests_share_are_not_changed():
    scheduler = make_scheduler(Machine())
    shared = make_request("a", PROMPT, rows={"instructed": ROW}).sampling_params
    before = copy.deepcopy(shared)
    for name in ("one", "two"):
        scheduler.add_request(Request(name, PROMPT, shared, None))
    assert shared == before
    assert [row.request_id for row in rows_of(scheduler, "two")] == ["two", "two/sda/instructed"]


def test_a_group_of_one_row_is_a_plain_request_that_knows_its_settings():
    engine = SmallEngine(Machine())
    engine.add(make_request("a", [7], rows={}, max_tokens=3))
    told = engine.scheduler.requests["a"].sampling_params.extra_args["sda"]
    assert told == {"settings": {"of": "a"}, "group": "a", "row": "base", "count": 1}
    assert not engine.scheduler._groups
    assert engine.run().ends == {"a": FinishReason.LENGTH}


def test_all_rows_may_answer_as_long_as_the_longest_of_them():
    machine = Machine(window=32)
    engine = SmallEngine(machine)
    engine.add(make_request("a", [7, 7, 7], rows={"instructed": [3] * 28}, max_tokens=29, machine=machine, stops=False))
    assert [(row.max_tokens, row.sampling_params.max_tokens) for row in rows_of(engine.scheduler, "a")] == [(4, 4)] * 2
    engine.run().check_nothing_is_left()
    assert len(engine.tokens["a"]) == 4
    assert engine.ends == {"a": FinishReason.LENGTH}


def test_a_prompt_that_leaves_room_for_one_token_gets_one():
    machine = Machine(window=32)
    engine = SmallEngine(machine)
    engine.add(make_request("a", [7, 7, 7], rows={"instructed": [3] * 31}, max_tokens=29, machine=machine))
    engine.run().check_nothing_is_left()
    assert engine.tokens["a"] == [next_token([chain_of([7, 7, 7], 0), chain_of([3] * 31, 0)])]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_group_ends_where_its_rows_fill_the_cache(asynchronous):
    """Two rows of 8 and 16 tokens have 9 blocks of 4: 6 for their prompts, then one more for each."""
    machine = Machine(asynchronous=asynchronous, blocks=1 + 9)
    engine = SmallEngine(machine)
    engine.add(make_request("a", [7] * 8, rows={"instructed": [16] * 16}, max_tokens=100, machine=machine, stops=False))
    engine.run().check_nothing_is_left()
    assert len(engine.tokens["a"]) == 5  # the last one is never read
    assert engine.ends == {"a": FinishReason.LENGTH}


WRONG = {
    "no object": ([1, 2], "must be an object of rows and settings"),
    "no rows": ({"settings": {}}, "must be an object of rows and settings"),
    "a group of another": ({"rows": {}, "group": "b", "count": 2}, "must be an object of rows and settings"),
    "rows no object": ({"rows": [[1, 2]]}, "must be objects"),
    "settings no object": ({"rows": {}, "settings": "x"}, "must be objects"),
    "too many rows": ({"rows": {f"instructed {one}": [1, 2] for one in range(8)}}, "1 to 8 rows, not 9"),
    "a row called base": ({"rows": {"base": [1, 2]}}, "names no hidden row"),
    "a number for a name": ({"rows": {1: [1, 2]}}, "names no hidden row"),
    "a name with an id in it": ({"rows": {"a/sda/b-0123abcd": [1, 2]}}, "names no hidden row"),
    "an empty row": ({"rows": {"instructed": []}}, "one or more token ids"),
    "a text for a row": ({"rows": {"instructed": "12"}}, "one or more token ids"),
    "no number": ({"rows": {"instructed": [1, None]}}, "one or more token ids"),
    "a truth for a number": ({"rows": {"instructed": [1, True]}}, "one or more token ids"),
    "a negative id": ({"rows": {"instructed": [1, -1]}}, "outside 0..63"),
    "an id beyond the vocabulary": ({"rows": {"instructed": [1, VOCAB]}}, "outside 0..63"),
    "a row of one token": ({"rows": {"instructed": [1]}}, "prompt of one token"),
    "a row as long as the window": ({"rows": {"instructed": [1] * 128}}, "128 tokens"),
}


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(("asked", "reason"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_with_a_request_ends_that_request_alone(asked, reason, asynchronous, caplog):
    engine = SmallEngine(Machine(asynchronous=asynchronous))
    wrong = make_request("wrong", PROMPT, rows={}, client_index=2)
    wrong.sampling_params.extra_args = {"sda": asked}
    with caplog.at_level(logging.WARNING):
        engine.add(make_request("before", PROMPT), wrong, make_request("after", PROMPT, rows={"instructed": ROW}))
    engine.run().check_nothing_is_left()
    assert engine.ends["wrong"] is FinishReason.ERROR
    assert reason in engine.outputs["wrong"].stop_reason
    assert reason in caplog.text
    assert engine.tokens["wrong"] == []
    assert {engine.ends["before"], engine.ends["after"]} <= {FinishReason.LENGTH, FinishReason.STOP}


def test_what_is_no_plain_text_is_refused():
    scheduler = make_scheduler(Machine())
    streamed = make_request("streamed", PROMPT, rows={}, resumable=True)
    pictured = make_request("pictured", PROMPT, rows={})
    pictured.mm_features = ["a picture"]
    for request in (streamed, pictured):
        scheduler.add_request(request)
        assert scheduler._failed[request.request_id].startswith("ConfigError")


def test_a_group_that_can_never_fit_ends_at_once_and_holds_nobody_up():
    machine = Machine(sequences=2, blocks=12)
    engine = SmallEngine(machine)
    engine.add(
        make_request("many rows", [7, 7], rows={"instructed": [8, 8], "avoided": [9, 9]}, machine=machine),
        make_request("many tokens", [7] * 24, rows={"instructed": [8] * 24}, machine=machine),
        make_request("next", [7] * 8, rows={"instructed": [8] * 8}, machine=machine),
    )
    told = {output.request_id for output in engine.step()[0].outputs}
    assert told == {"many rows", "many tokens"}
    engine.run().check_nothing_is_left()
    assert engine.outputs["many rows"].stop_reason.startswith("CapacityError: The group has 3 rows, and vLLM runs 2")
    assert "need 12 blocks of the KV cache, which has 11" in engine.outputs["many tokens"].stop_reason
    assert engine.ends["next"] is not FinishReason.ERROR


def test_a_request_that_was_refused_may_be_aborted_before_its_client_is_told():
    engine = SmallEngine(Machine())
    engine.add(make_request("a", PROMPT, rows={"instructed": []}))
    finished = engine.scheduler.finish_requests("a", RequestStatus.FINISHED_ABORTED)
    assert [one.request_id for one in finished] == ["a"]
    engine.run().check_nothing_is_left()
    assert engine.tokens == {}


def test_a_request_that_names_no_rows_is_none_of_our_business():
    engine, plain = SmallEngine(Machine()), SmallEngine(Machine(), plain=True)
    for one in (engine, plain):
        other = make_request("b", ROW, max_tokens=20)
        other.sampling_params = SamplingParams(max_tokens=20, temperature=0.0, extra_args={"other": 1})
        one.add(make_request("a", PROMPT, max_tokens=20), other)
        one.run()
    assert engine.tokens == plain.tokens
    assert [one.num_scheduled_tokens for one in engine.scheduled] == [
        one.num_scheduled_tokens for one in plain.scheduled
    ]
