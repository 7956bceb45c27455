"""Each kind of arm in each form of task, on a tiny model, and what is noted of it."""

import shutil

import pytest
from inspect_ai.log import list_eval_logs, read_eval_log

from sda_integrations.studies.answering import PRESET_AVOIDED, alignment_of
from sda_integrations.studies.planning import make_plan
from sda_integrations.studies.reading import make_study
from sda_integrations.studies.running import run_study
from sda_integrations.studies.study import ArmSpec
from tests.sda_integrations.inspect_runs import RUNS_INSPECT

pytestmark = RUNS_INSPECT

ARMS = {
    "plain": {"kind": "plain"},
    "prompt": {"kind": "prompt", "tasks": ["truthfulqa", "truthfulqa-mc"]},
    "paper": {"kind": "steered", "steering": {"policy": "paper"}},
    "avoid": {
        "kind": "steered",
        "avoid_only": True,
        "steering": {"policy": "paper"},
        "tasks": ["truthfulqa", "truthfulqa-mc", "rag"],
    },
    "revise": {"kind": "steered", "steering": {"policy": "revise"}, "tasks": ["truthfulqa-mc", "json"]},
    "corrector": {"kind": "corrector", "tasks": ["truthfulqa", "truthfulqa-mc", "calls"]},
    "mock": {"kind": "model", "model": "mockllm/model", "instructed": True, "tasks": ["truthfulqa", "truthfulqa-mc"]},
}


@pytest.fixture(scope="module")
def told(tiny_folder, data, tmp_path_factory):
    """Results and logs of a study of all arms in all forms of tasks."""
    study = {
        "name": "all",
        "title": "All arms",
        "question": "Do they run?",
        "model": str(tiny_folder),
        "dtype": "float32",
        "max_tokens": 4,
        "limit": 1,
        "tasks": [{"name": name} for name in ("truthfulqa", "truthfulqa-mc", "rag", "refusals", "calls", "json")],
        "arms": ARMS,
    }
    out = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:  # the mock counts tokens by a vocabulary that it would download
        patch.setattr("inspect_ai.model._model.count_text_tokens", len)
        results = run_study(make_study(study), out, data=data, display="none")
    logs = [read_eval_log(info, resolve_attachments=True) for info in list_eval_logs(str(out / "logs" / "answers"))]
    return results, {(log.eval.metadata["task"], log.eval.metadata["arm"]): log.samples for log in logs}


def test_every_arm_answers_every_task_that_it_can(told):
    results, samples = told
    assert not results.failures
    asked = {(task, arm) for arm, fields in ARMS.items() for task in fields.get("tasks", results.tasks)}
    assert asked - set(samples) == {
        ("truthfulqa-mc", "corrector"),
        ("truthfulqa-mc", "mock"),
        ("truthfulqa-mc", "revise"),
        ("calls", "corrector"),
        ("rag", "avoid"),  # whose instruction forbids nothing
    }
    assert not set(samples) - asked
    assert len([note for note in results.notes if "does not run" in note]) == 4


def test_arms_are_asked_with_the_same_sample_and_seed(told):
    _, samples = told
    for task in ("truthfulqa", "rag"):
        asked = [one for (name, _), (one, *_) in samples.items() if name == task]
        assert len({(one.id, str(one.input)) for one in asked}) == 1
        seeds = {event.config.seed for one in asked for event in one.events if event.event == "model"}
        assert len(seeds) == 1


def test_steered_arms_are_steered_by_the_tasks_alignment_and_plain_ones_by_none(told):
    _, samples = told
    told = {arm: samples["truthfulqa", arm][0].output.metadata["sda"] for arm in ("plain", "prompt", "paper", "avoid")}
    assert {arm: sda["alignment"] for arm, sda in told.items()} == {
        "plain": None,
        "prompt": "honesty",
        "paper": "honesty",
        "avoid": "avoided",
    }
    assert told["prompt"]["strength"] == 0.0
    assert told["paper"]["strength"] == pytest.approx(0.92, abs=0.01)


def test_a_corrector_sees_question_answer_and_instruction(told):
    _, samples = told
    (sample,) = samples["truthfulqa", "corrector"]
    first, second = (event for event in sample.events if event.event == "model")
    asked = second.input[-1].text
    assert str(sample.input) in asked
    assert first.output.completion in asked
    assert "truthfully" in asked.lower() or "honest" in asked.lower()


def test_another_model_gets_the_instruction_in_its_message(told):
    _, samples = told
    (sample,) = samples["truthfulqa", "mock"]
    (call,) = (event for event in sample.events if event.event == "model")
    assert call.input[-1].text.startswith(f"{sample.input}\n")
    assert "Default output" in sample.output.completion


def test_choices_are_probabilities_of_the_answers_given(told):
    _, samples = told
    for arm in ("plain", "prompt", "paper", "avoid"):
        measures = next(iter(samples["truthfulqa-mc", arm][0].scores.values())).metadata["measures"]
        assert measures["mc1"] in (0.0, 1.0)
        assert 0.0 < measures["mc2"] < 1.0


def test_forms_are_held_by_a_grammar_and_have_the_room_that_they_take(told):
    results, _ = told
    shares = {(one.task, one.measure, one.arm): one.value for one in results.figures}
    for arm in ("plain", "paper"):
        assert shares["calls", "valid_call", arm] == 1.0
    for arm in ("plain", "paper", "revise"):
        assert shares["json", "valid_json", arm] == 1.0


def test_what_is_avoided_is_the_samples_own_text_or_the_opposite_of_the_preset():
    arm = ArmSpec(name="a", kind="steered", avoid_only=True)
    assert alignment_of(arm, "honesty", {}) == {"avoid": PRESET_AVOIDED["honesty"], "name": "avoided"}
    assert alignment_of(arm, None, {"alignment": {"instruction": "i"}, "avoid": "x"}) == {
        "avoid": "x",
        "name": "avoided",
    }
    assert alignment_of(arm, None, {"alignment": {"instruction": "i"}, "avoid": None}) is None


def test_where_one_request_runs_at_a_time_its_costs_are_told(study, data, tmp_path):
    model = shutil.copytree(study["model"], tmp_path / "model")  # one that no other test has loaded with other settings
    fields = {**study, "model": str(model), "judges": [], "together": 1, "limit": 2}
    kept = {name: ARMS[name] for name in ("plain", "paper")}
    fields["arms"] = {
        **kept,
        "prompt": {"kind": "prompt"},
        "corrector": {"kind": "corrector"},
        "revise": {"kind": "steered", "steering": {"policy": "revise", "amplification": 0.5}},
        "judged": {"kind": "steered", "steering": {"policy": "paper", "evaluator": "simulated:0.01"}},
    }
    results = run_study(make_study(fields), tmp_path / "out", data=data, display="none")
    told = {(one.arm, one.measure): one.value for one in results.figures if one.category is None}
    assert told["plain", "passes"] >= 1
    assert told["judged", "judge_calls"] == 1
    assert told["plain", "judge_calls"] == 0
    assert told["judged", "passes"] > told["paper", "passes"], "its base response was decoded first"
    assert told["prompt", "read_tokens"] < told["paper", "read_tokens"], "an instruction in the message is one row"
    assert told["corrector", "tokens"] > told["plain", "tokens"]
    assert told["paper", "held_tokens"] > told["plain", "held_tokens"]
    stages = {(one.arm, one.stage): one for one in results.stages}
    assert stages["judged", "judge"].seconds >= 0.01
    assert {stage for arm, stage in stages if arm == "corrector"} == {"base response", "correction"}
    assert {stage for arm, stage in stages if arm == "revise"} <= {"judge", "answer"}, "nobody rated its base response"
    for arm in ("plain", "judged", "corrector"):
        assert sum(one.share for one in results.stages if one.arm == arm) == pytest.approx(1.0)


def test_a_plan_reads_the_same_samples_for_all_arms_and_names_their_source(study, data):
    plan = make_plan(make_study(study), data)
    assert len(plan.samples["truthfulqa"]) == 3
    assert plan.sources["truthfulqa"].name == "truthfulqa.jsonl"
    assert [(task.name, arm.name) for task, arm in plan.runs] == [("truthfulqa", "plain"), ("truthfulqa", "paper")]
