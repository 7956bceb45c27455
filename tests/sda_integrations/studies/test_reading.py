import pytest

from sda_engine.errors import ConfigError
from sda_integrations.studies.reading import SHIPPED, Changes, make_study, read_study
from sda_integrations.studies.tasks import TASKS

FIELDS = {
    "name": "n",
    "title": "t",
    "question": "q",
    "tasks": [{"name": "truthfulqa", "limit": 5}, {"name": "rag"}],
    "arms": {"plain": {"kind": "plain"}, "sda": {"kind": "steered", "steering": {"evaluator": "contrastive"}}},
}


def changed(**fields):
    return {**FIELDS, **fields}


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_study_can_be_read_and_asks_tasks_that_there_are(name):
    study = read_study(name)
    assert study.name == name
    assert {task.name for task in study.tasks} <= set(TASKS)
    assert study.baseline == "plain"


def test_the_papers_study_has_its_seven_columns_and_its_ablation():
    study = read_study("paper")
    judged = [task.name for task in study.tasks if TASKS[task.name].judged]
    assert len(judged) == 7
    assert {"sda", "steering alone", "temperature alone", "corrector"} <= {arm.name for arm in study.arms}


def test_strengths_become_an_arm_each_of_one_sweep():
    arms = {
        "plain": {"kind": "plain"},
        "paper": {"kind": "steered", "strengths": [0.5, 2], "steering": {"policy": "paper"}},
    }
    study = make_study(changed(arms=arms))
    swept = [arm for arm in study.arms if arm.sweep == "paper"]
    assert [(arm.name, arm.strength) for arm in swept] == [("paper 0.5", 0.5), ("paper 2", 2.0)]
    assert all(arm.steering["gain"] * arm.steering["amplification"] == arm.strength for arm in swept)


def test_a_judge_without_a_name_is_the_studys_own_model_whichever_that_is():
    assert make_study(changed(judges=[{}])).judges[0].model == "sda/smollm2-135m"
    assert make_study(changed(judges=[{}]), Changes(model="org/m")).judges[0].model == "sda/org/m"


def test_a_command_changes_what_it_names_and_nothing_else():
    study = make_study(changed(judges=[{}]), Changes(limit=7, max_tokens=9, judge="openai/m", evaluator="openai:m"))
    assert [task.limit for task in study.tasks] == [5, 7]
    assert [task.max_tokens for task in study.tasks] == [9, 9]
    assert [judge.model for judge in study.judges] == ["openai/m"]
    assert study.arms[1].steering == {"evaluator": "openai:m"}
    assert make_study(FIELDS, Changes()) == make_study(FIELDS)


def test_an_evaluator_that_passes_the_time_is_not_exchanged():
    arms = {"plain": {"kind": "plain"}, "slow": {"kind": "steered", "steering": {"evaluator": "simulated:2"}}}
    assert make_study(changed(arms=arms), Changes(evaluator="openai:m")).arms[1].steering == {
        "evaluator": "simulated:2"
    }


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"arms": {"plain": {"kind": "plain", "steering": {"gain": 2.0}}}}, "where 'steering' changes nothing"),
        ({"arms": {"plain": {"kind": "plain"}, "a": {"kind": "model"}}}, "needs a model"),
        (
            {"arms": {"plain": {"kind": "plain"}, "a": {"kind": "steered", "steering": {"gian": 1}}}},
            "Did you mean 'gain'",
        ),
        ({"arms": {"a": {"kind": "plain"}}}, "no arm 'plain'"),
        ({"arms": {"plain": {"kind": "plain", "tasks": ["rga"]}}}, "Did you mean 'rag'"),
        ({"arms": {"plain": {"kind": "plain", "against": ["b"]}}}, "no arm 'b'"),
        ({"arms": {"plain": {"kind": "steered", "strengths": "all"}}}, "a list of numbers of at least 0"),
        ({"arms": ["plain"]}, "tables by name"),
        ({"tasks": []}, "at least one"),
        ({"tasks": [{"name": "rag"}, {"name": "rag"}]}, "two tasks named 'rag'"),
        ({"tasks": {"name": "rag"}}, r"\[\[tasks\]\]"),
        ({"judges": [{"model": "a", "evaluator": "b"}]}, "give one of the two"),
        ({"limit": 0}, "Study.limit cannot be 0"),
        ({"temperature_": 1.0}, "Did you mean 'temperature'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(fields, said):
    with pytest.raises(ConfigError, match=said):
        make_study(changed(**fields))


def test_a_study_that_is_not_there_is_told_with_those_that_are():
    with pytest.raises(ConfigError, match="paper, adherence, rag, domains, overhead"):
        read_study("papr")


def test_a_file_that_is_no_toml_is_told(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text("name = ")
    with pytest.raises(ConfigError, match="is no TOML file"):
        read_study(str(path))
