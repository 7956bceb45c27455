import pytest
from inspect_ai.log import list_eval_logs, read_eval_log

from sda_engine.errors import ConfigError
from sda_integrations.studies.reading import make_study
from sda_integrations.studies.running import run_study
from tests.sda_integrations.inspect_runs import RUNS_INSPECT

pytestmark = RUNS_INSPECT


def run(study, out, data, **more):
    return run_study(make_study(study), out, data=data, display="none", **more)


def finished(out, stage):
    """(task, sample) -> the ids of its runs that have a score, over all logs."""
    runs = {}
    for info in list_eval_logs(str(out / "logs" / stage)):
        log = read_eval_log(info)
        for sample in log.samples or ():
            if sample.scores:
                runs.setdefault((log.eval.task, sample.id), set()).add(sample.uuid)
    return runs


def test_a_study_answers_judges_and_tells_every_arm(study, data, tmp_path):
    results = run(study, tmp_path, data)
    assert results.tasks == {"truthfulqa": 3}
    assert not results.failures
    told = {(figure.arm, figure.measure): figure for figure in results.figures if figure.category is None}
    for arm in ("plain", "paper"):
        assert told[arm, "words"].count == 3
        assert 1 <= told[arm, "points"].value <= 100
    assert -1 <= told["paper", "win_rate"].value <= 1
    assert ("plain", "win_rate") not in told
    (judge,) = results.judges
    assert judge.unreadable == 0, "a grammar keeps a local judge's verdicts in form"
    assert judge.verdicts >= 6


def test_a_study_that_is_run_again_is_refused_unless_it_is_resumed(study, data, tmp_path):
    run({**study, "judges": []}, tmp_path, data)
    with pytest.raises(ConfigError, match="go on with it by --resume"):
        run({**study, "judges": []}, tmp_path, data)


def test_a_resumed_study_asks_nothing_twice_and_finds_the_same(study, data, tmp_path):
    first = run(study, tmp_path, data)
    before = {stage: finished(tmp_path, stage) for stage in ("answers", "verdicts")}
    again = run(study, tmp_path, data, resume=True)
    assert {stage: finished(tmp_path, stage) for stage in before} == before
    assert all(len(runs) == 1 for stage in before.values() for runs in stage.values())
    assert again.model_dump() == first.model_dump()


def test_what_was_measured_under_another_protocol_is_not_mixed(study, data, tmp_path):
    run({**study, "judges": []}, tmp_path, data)
    with pytest.raises(ConfigError, match=r"another protocol.*study\.max_tokens: 6, now 7"):
        run({**study, "judges": [], "max_tokens": 7}, tmp_path, data, resume=True)


def test_samples_that_failed_are_told_and_tried_again_when_the_study_is_resumed(study, data, tmp_path, monkeypatch):
    from sda_integrations.studies import answering

    real, broken = answering._write, [True]

    async def write(state, arm, task, alignment):
        if broken[0] and arm.name == "paper" and state.sample_id == str(state.sample_id) and "1" in state.input_text:
            raise RuntimeError("the socket broke")
        return await real(state, arm, task, alignment)

    monkeypatch.setattr(answering, "_write", write)
    fields = {**study, "judges": [], "limit": 12}
    first = run(fields, tmp_path, data)
    failed = [failure for failure in first.failures if failure.arm == "paper"]
    assert len(failed) == 3, "numbers 1, 10 and 11"
    assert all("the socket broke" in failure.error for failure in failed)
    before = finished(tmp_path, "answers")
    broken[0] = False
    again = run(fields, tmp_path, data, resume=True)
    assert not again.failures
    after = finished(tmp_path, "answers")
    assert all(after[key] == before[key] for key in before), "what was answered is not asked again"
    assert len(after) == 24
