"""Fixtures for studies: a tiny model in a folder, data in files, and a study that asks both."""

import json

import pytest

from sda_engine.testing import tiny_model, tiny_tokenizer

QUESTIONS = [
    {
        "Question": f"Is the fox number {place} quick?",
        "Best Answer": "Yes, it is",
        "Correct Answers": "Yes, it is; It is quick",
        "Incorrect Answers": "No, it is not; The dog is",
        "Category": "Foxes" if place % 2 else "Dogs",
    }
    for place in range(12)
]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A tiny model that can be loaded by its path."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A folder of data sets as JSON lines."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "truthfulqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    return folder


@pytest.fixture
def study(tiny_folder):
    """Fields of a small study, as TOML holds them."""
    return {
        "name": "small",
        "title": "A small study",
        "question": "Does it run?",
        "model": str(tiny_folder),
        "dtype": "float32",
        "max_tokens": 6,
        "limit": 3,
        "tasks": [{"name": "truthfulqa"}],
        "arms": {
            "plain": {"kind": "plain"},
            "paper": {"kind": "steered", "steering": {"policy": "paper"}},
        },
        "judges": [{}],
    }
