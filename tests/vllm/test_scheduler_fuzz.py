"""Lock step under random arrivals, aborts, preemption and all else; see `scheduler_fuzz`."""

import pytest
from vllm.v1.core.sched.scheduler import Scheduler

from sda_integrations.vllm.admission import GroupAdmission
from sda_integrations.vllm.blocks import KVBlocks
from sda_integrations.vllm.scheduler import GroupScheduling
from tests.sizes import size
from tests.vllm.scheduler_fuzz import play_many

RUNS = size(2000, 60)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["synchronous", "asynchronous"])
def test_random_runs_stay_in_lock_step_and_give_each_client_its_own_tokens(asynchronous):
    told = play_many(RUNS, asynchronous=asynchronous)
    print(dict(told))  # noqa: T201 - seen with -s, for a report
    assert told["runs"] == RUNS
    assert told["whole answers"] > 2 * RUNS
    assert told["preemptions"] > RUNS / 3, "the runs are not short of blocks"
    assert told["aborts"] > RUNS / 2


@pytest.mark.parametrize(
    ("owner", "name", "without"),
    [
        pytest.param(
            GroupAdmission, "_reserve_prefill_lookahead", Scheduler._reserve_prefill_lookahead, id="rows are not held"
        ),
        pytest.param(GroupAdmission, "_half_admitted", lambda self: None, id="two groups may be half admitted"),
        pytest.param(KVBlocks, "for_next_tokens", lambda self, rows: 0, id="blocks are not looked for"),
        pytest.param(KVBlocks, "longest_answer", lambda self, prompts, most: most, id="groups outgrow the cache"),
        pytest.param(GroupScheduling, "_part_broken_groups", lambda self: None, id="one row may be preempted"),
        pytest.param(GroupScheduling, "_bring_forward", lambda self, group: None, id="rows wait behind others"),
    ],
)
def test_the_fuzzer_sees_a_scheduler_that_lacks_one_of_its_rules(monkeypatch, owner, name, without):
    monkeypatch.setattr(owner, name, without)
    with pytest.raises(AssertionError, match=r"^run \d+ of Machine"):
        play_many(200, asynchronous=False)
