"""A study that is killed in the middle goes on where it was."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from inspect_ai.log import list_eval_logs, read_eval_log

from sda_integrations.studies.reading import make_study
from sda_integrations.studies.running import run_study
from tests.sda_integrations.inspect_runs import RUNS_INSPECT

pytestmark = RUNS_INSPECT

RUN = """
import json, sys
from pathlib import Path
from sda_integrations.studies.reading import make_study
from sda_integrations.studies.running import run_study
from tests.sda_integrations.inspect_runs import RUNS_INSPECT
run_study(make_study(json.loads(sys.argv[1])), Path(sys.argv[2]), data=Path(sys.argv[3]), display="none")
"""
DEADLINE = 240  # seconds until a killed process must have had its first answers


def answered(folder):
    """(task, sample) -> the ids of its runs that have a score."""
    runs = {}
    for info in list_eval_logs(str(folder)):
        log = read_eval_log(info)
        for sample in log.samples or ():
            if sample.scores:
                runs.setdefault((log.eval.task, sample.id), set()).add(sample.uuid)
    return runs


@pytest.mark.slow
def test_a_study_that_is_killed_and_resumed_loses_no_answer_and_asks_for_none_twice(study, data, tmp_path):
    # A judge of 0.4 s for each of twelve base responses, two at a time: there is a middle to be killed in
    arms = {
        **study["arms"],
        "judged": {"kind": "steered", "steering": {"evaluator": "simulated:0.4", "policy": "paper"}},
    }
    fields = {**study, "limit": 12, "together": 2, "judges": [], "arms": arms}
    out, logs = tmp_path / "out", tmp_path / "out" / "logs" / "answers"
    command = [sys.executable, "-c", RUN, json.dumps(fields), str(out), str(data)]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_judged(logs, process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    before = answered(logs)
    assert 3 <= len(before) < 36, "killed in the middle"
    results = run_study(make_study(fields), out, data=data, resume=True, display="none")
    after = answered(logs)
    assert len(after) == 36
    assert not results.failures
    assert {one.count for one in results.figures if one.measure == "words" and one.category is None} == {12}
    assert all(after[key] == runs for key, runs in before.items()), "what was answered is kept as it was"
    assert all(len(runs) == 1 for runs in after.values())


def wait_for_judged(logs: Path, process: subprocess.Popen) -> None:
    """Until the judged arm has three answers on the disk."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end and process.poll() is None:
        try:
            if logs.is_dir() and sum(task.endswith("judged") for task, _ in answered(logs)) >= 3:
                return
        except ValueError:  # a log that is being written at this moment
            pass
        time.sleep(0.1)
    raise AssertionError("the study ended, or had no answer in time")
