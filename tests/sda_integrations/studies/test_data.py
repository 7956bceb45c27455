import json
from types import SimpleNamespace

import pytest

from sda_engine.errors import ConfigError
from sda_integrations.studies import samples
from sda_integrations.studies.checks import Answered, check_fact
from sda_integrations.studies.data import DataSet, digest_of, read_rows
from sda_integrations.studies.tasks import TASKS

ROWS = [{"prompt": f"Why {place}?", "category": "a"} for place in range(30)]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def test_a_folder_comes_before_the_hub(folder):
    rows, source = read_rows(DataSet("set.jsonl", "org/set"), folder=folder)
    assert rows == ROWS
    assert (source.name, source.rows, source.digest) == ("set.jsonl", 30, digest_of(ROWS))


def test_a_set_that_is_nowhere_is_told_with_the_remedy(tmp_path):
    with pytest.raises(ConfigError, match=r"other\.jsonl is needed.*--data FOLDER"):
        read_rows(DataSet("other.jsonl"), folder=tmp_path)


def test_the_hub_is_asked_for_one_commit_which_the_source_names(monkeypatch):
    asked = []

    def load_dataset(name, subset, *, split, revision):
        asked.append((name, subset, split, revision))
        return ROWS

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    monkeypatch.setattr(
        "huggingface_hub.HfApi.dataset_info",
        lambda self, name, revision: SimpleNamespace(sha=f"{revision or 'new'}-sha"),
    )
    rows, source = read_rows(DataSet("set.jsonl", "org/set", "sub", "train", revision="pinned"))
    assert rows == ROWS
    assert source.name == "org/set@pinned-sha"
    read_rows(DataSet("set.jsonl", "org/set", "sub", "train"))
    assert asked == [("org/set", "sub", "train", "pinned-sha"), ("org/set", "sub", "train", "new-sha")]


def test_a_hub_that_cannot_be_reached_is_told_with_the_remedy(monkeypatch):
    def fail(self, name, revision):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", fail)
    with pytest.raises(ConfigError, match=r"org/set cannot be had.*no network.*--data FOLDER"):
        read_rows(DataSet("set.jsonl", "org/set"))


def test_fewer_samples_are_the_first_of_more_and_another_seed_draws_others():
    few, more, others = (samples.prompts(ROWS, *drawn) for drawn in ((5, 0), (20, 0), (5, 1)))
    assert [sample.id for sample in few] == [sample.id for sample in more[:5]]
    assert [sample.id for sample in few] != [sample.id for sample in others]


def test_truthfulqa_is_read_as_its_file_and_as_the_hub_write_it():
    file = {
        "Question": "Q?",
        "Best Answer": "a",
        "Correct Answers": "a; b",
        "Incorrect Answers": "c;d",
        "Category": "X",
    }
    hub = {
        "question": "Q?",
        "best_answer": "a",
        "correct_answers": ["a", "b"],
        "incorrect_answers": ["c", "d"],
        "category": "X",
    }
    (one,), (other,) = samples.truthful([file], 1, 0), samples.truthful([hub], 1, 0)
    assert one.metadata == other.metadata == {"category": "X", "best": "a", "true": ["a", "b"], "false": ["c", "d"]}


def test_an_instruction_is_what_the_prompt_says_beside_its_query():
    row = {
        "prompt": "Write a poem. Do not say blue.",
        "prompt_without_instruction": "Write a poem.",
        "instruction_id_list": ["keywords:forbidden_words"],
        "kwargs": [{"forbidden_words": ["blue"]}],
    }
    (sample,) = samples.instructed([row], 1, 0)
    assert sample.input == "Write a poem."
    assert sample.metadata["alignment"] == {"instruction": "Do not say blue.", "name": "instruction"}
    assert sample.metadata["avoid"] == "Include the keyword blue."


def test_rows_whose_kind_cannot_be_checked_are_left_out():
    row = {"prompt": "a b", "prompt_without_instruction": "a", "kwargs": [{}]}
    kinds = ["length_constraints:number_sentences", "punctuation:no_comma"]
    made = samples.instructed([{**row, "instruction_id_list": [kind]} for kind in kinds], 9, 0)
    assert [sample.metadata["category"] for sample in made] == ["punctuation:no_comma"]


def test_a_row_of_another_set_is_told_with_its_fields():
    with pytest.raises(ConfigError, match="has no 'dialogue': its fields are prompt, category"):
        samples.summaries(ROWS, 1, 0)


@pytest.mark.parametrize("task", [name for name, kind in TASKS.items() if kind.data is None])
def test_samples_that_are_made_up_repeat_and_can_be_written_down(task):
    made, again, other = (TASKS[task].make([], 8, seed) for seed in (0, 0, 1))
    assert len(made) == 8
    assert len({sample.id for sample in made}) == 8
    assert json.dumps([one.model_dump(mode="json") for one in made]) == json.dumps(
        [one.model_dump(mode="json") for one in again]
    )
    assert [sample.input for sample in made] != [sample.input for sample in other]


def test_an_instruction_that_is_only_recited_is_not_followed():
    (sample,) = samples.documents([], 1, 0)
    good = f'"Welcome! It is {sample.target}."'
    recited = 'Include the word "welcome" in your answer.'
    told = [check_fact(Answered(text=text, about=sample.metadata)) for text in (good, recited, "")]
    assert [one["follows"] for one in told] == [1.0, 0.0, 0.0]
    assert [one["fact_kept"] for one in told] == [1.0, 0.0, 0.0]
    assert [one["follows_and_keeps"] for one in told] == [1.0, 0.0, 0.0]
