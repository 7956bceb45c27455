"""The census's own parts: the groups that it counts, the page that it fills, processes that fail."""

import os
import time
from pathlib import Path

import pytest

from benchmarks.census_models import examining, running
from benchmarks.census_models.configs import tiny_config
from benchmarks.census_models.examining import Finding, Size, examine
from benchmarks.census_models.page import count, fill_page
from benchmarks.census_models.questions import loop_answer
from benchmarks.census_models.types import TYPES
from sda_engine.errors import ContextLengthError

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "models.md"


def test_types_are_in_one_group_each():
    """The counts of transformers 5.23: a release with other types has to be looked at."""
    assert {group: len(names) for group, names in TYPES.items() if group != "variant"} == {
        "decoder": 153,
        "other": 36,
        "vision": 97,
    }


def test_a_table_goes_between_the_markers_of_its_group_and_nowhere_else():
    findings = [
        Finding("qwen3", "decoder", "exact", runner="flat"),
        Finding("qwen2", "decoder", "exact", runner="flat"),
        Finding("rwkv", "decoder", "refused", "a | <state> of_its_own"),
    ]
    page = PAGE.read_text("utf-8")
    filled = fill_page(page, "decoder", findings)
    assert "3: **exact 2, different 0, refused 1, not built 0**" in filled
    assert "| Qwen | `qwen2` `qwen3` | exact | flat |  |" in filled
    assert r"| RWKV, xLSTM | `rwkv` | refused |  | a / &lt;state> of\_its\_own |" in filled
    assert fill_page(filled, "decoder", findings) == filled
    assert filled.partition("## Vision")[2] == page.partition("## Vision")[2]


@pytest.mark.parametrize("group", TYPES)
def test_the_page_has_a_place_for_each_group(group):
    fill_page(PAGE.read_text("utf-8"), group, [])


def test_a_page_without_markers_is_refused():
    with pytest.raises(ValueError, match="census: vision"):
        fill_page("# Models", "vision", [])


def test_all_verdicts_are_counted():
    assert count([Finding("t", "vision", "not built")]) == "exact 0, different 0, refused 0, not built 1"


def test_sizes_in_place_of_common_ones_reach_the_decoder_within():
    sizes = {"sliding_window": 12}
    assert tiny_config("gemma3", sizes).text_config.sliding_window == 12
    assert tiny_config("gemma3").text_config.sliding_window == 16


@pytest.mark.parametrize(
    ("fails", "limit", "reason"),
    [(lambda *_: os._exit(3), 60.0, "exit code 3"), (lambda *_: time.sleep(60), 0.1, "no end within")],
    ids=["it dies", "it does not end"],
)
def test_a_type_whose_process_fails_is_no_exact_one(monkeypatch, fails, limit, reason):
    monkeypatch.setattr(running, "_LOOK", 0.05)
    monkeypatch.setattr(running, "_examine", fails)
    (found,) = running.examine_all([("qwen3", "decoder")], jobs=1, limit=limit)
    assert (found.model_type, found.verdict) == ("qwen3", "different")
    assert reason in found.reason


@pytest.mark.parametrize(
    ("factor", "reason"), [(1.01, "log-probabilities are off"), (-3.0, "its answer alone is another")]
)
def test_an_engine_that_computes_something_else_is_told_of(monkeypatch, factor, reason):
    def loop(model, prompts, strength, tokens):
        return loop_answer(model, prompts, factor * strength, tokens)

    monkeypatch.setattr(examining, "loop_answer", loop)
    found = examine("llama", "decoder", Size(alone=3, together=1, questions=1, seeds=(3,)))
    assert found.verdict == "different"
    assert reason in found.reason


def test_what_the_engine_takes_for_short_texts_alone_is_asked_with_a_longer_index(monkeypatch):
    def compare(model, model_type, group, size):
        if model.config.index_topk < 400:
            raise ContextLengthError(66, model.config.index_topk)
        return Finding(model_type, group, "exact", runner="flat")

    monkeypatch.setattr(examining, "_compare", compare)
    assert examine("glm_moe_dsa", "decoder").reason == "for texts up to its index_topk"
