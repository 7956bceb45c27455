import threading

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sda_engine import Alignment, Sampling, Steering, SteeringEngine
from sda_engine.errors import ConfigError
from sda_engine.testing import tiny_engine, tiny_model, tiny_tokenizer
from sda_engine.tokens.categories import TokenCategories, token_categories
from sda_engine.tokens.tokenizer import SafeTokenizer
from tests.conftest import user
from tests.floats import assert_alike

CATEGORIES = ("numbers", "negations", "named_entities")
SPECIAL = ["<|endoftext|>"]
WORDS = ["▁Paris", "Paris", "▁not", "not", "▁seven", "7", "▁the", "▁", "'t", "▁N"]


def word_tokenizer():
    """Tokens as SentencePiece writes them: the space before a word is a sign of its own."""
    vocabulary = {text: place for place, text in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return SafeTokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=SPECIAL[0]))


def endless_model():
    """Its answers never end by themselves."""
    model = tiny_model()
    model.generation_config.eos_token_id = []
    return model


def texts_of(mask):
    return [[*SPECIAL, *WORDS][place] for place in mask.nonzero().flatten().tolist()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", {"numbers"}),
        (" 1984", {"numbers"}),
        ("٣", {"numbers"}),
        (" seven", {"numbers"}),
        (" Million", {"numbers", "named_entities"}),
        (" seventh", set()),
        ("one", set()),  # it may end "phone"
        ("One", {"numbers", "named_entities"}),
        (" not", {"negations"}),
        ("No", {"negations", "named_entities"}),
        ("\nnever", {"negations"}),
        ("(without", {"negations"}),
        (" none,", {"negations"}),
        ("not", set()),  # it may end "knot"
        ("n't", {"negations"}),
        (" don't", {"negations"}),
        ("n\N{RIGHT SINGLE QUOTATION MARK}t", {"negations"}),
        ("'t", {"negations"}),
        ("'s", set()),
        (" notable", set()),
        (" Paris", {"named_entities"}),
        ("Paris", {"named_entities"}),
        (' "Élodie', {"named_entities"}),
        (" NASA", {"named_entities"}),
        (" I", set()),
        (" A", set()),
        (" In", {"named_entities"}),  # the price of a rule of thumb
        (" paris", set()),
        ("中文", set()),
        ("", set()),
        (" ", set()),
        ("...", set()),
        ("\N{REPLACEMENT CHARACTER}", set()),
    ],
)
def test_a_token_is_sorted_by_its_text(text, expected):
    assert token_categories(text) == expected


def test_no_category_has_no_mask():
    assert TokenCategories(word_tokenizer(), 11).mask(()) is None


def test_a_mask_covers_the_logits_and_several_categories_are_joined():
    categories = TokenCategories(word_tokenizer(), 16)
    assert categories.mask(("numbers",)).shape == (16,)
    assert texts_of(categories.mask(("numbers",))) == ["▁seven", "7"]
    assert texts_of(categories.mask(("negations",))) == ["▁not", "'t"]
    assert texts_of(categories.mask(("named_entities",))) == ["▁Paris", "Paris", "▁N"]
    everything = torch.stack([categories.mask((name,)) for name in CATEGORIES]).any(0)
    assert torch.equal(categories.mask(CATEGORIES), everything)


def test_logits_narrower_than_the_vocabulary_have_a_mask_of_their_width():
    assert texts_of(TokenCategories(word_tokenizer(), 6).mask(("numbers",))) == ["▁seven"]


def test_control_tokens_are_in_no_category():
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [" Seven"]})
    safe = SafeTokenizer(tokenizer)
    mask = TokenCategories(safe, 400).mask(CATEGORIES)
    assert not mask[safe.special_tokens[" Seven"]]
    assert mask.any()


def test_the_vocabulary_is_sorted_once_whoever_asks_first(monkeypatch):
    sorted_times = []
    sort = TokenCategories._sort
    monkeypatch.setattr(TokenCategories, "_sort", lambda self: sorted_times.append(1) or sort(self))
    categories, masks = TokenCategories(SafeTokenizer(tiny_tokenizer()), 320), []
    threads = [threading.Thread(target=lambda: masks.append(categories.mask(("numbers",)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted_times == [1]
    assert all(torch.equal(mask, masks[0]) for mask in masks)


def test_the_temperature_of_an_answer_falls_at_the_categories_that_the_user_named():
    sampling = Sampling(temperature=0.8, max_new_tokens=60, seed=1, top_k=1)
    steering = Steering(temperature_schedule="critical_tokens", critical_divergence=0.69, amplification=1.0)
    with SteeringEngine(endless_model(), tiny_tokenizer()) as engine:
        messages, kind = user("what is in the library?"), Alignment(instruction="be kind")
        plain = engine.generate(messages, kind, steering=steering, sampling=sampling)
        named = steering.replace(critical_categories=["numbers", "named_entities"])
        done = engine.generate(messages, kind, steering=named, sampling=sampling)
    assert done.token_ids == plain.token_ids
    categories = TokenCategories(SafeTokenizer(tiny_tokenizer()), 320).mask(named.critical_categories)
    cooled = [token.temperature < 0.8 for token in done.trace.tokens]
    assert cooled == [bool(categories[token_id]) for token_id in done.token_ids]
    assert 0 < sum(cooled) < len(cooled)
    assert plain.trace.temperature == pytest.approx([0.8] * 60)


async def test_an_event_loop_gets_the_same_answer():
    sampling = Sampling(temperature=0.8, max_new_tokens=20, seed=1)
    steering = Steering(temperature_schedule="critical_tokens", critical_categories="numbers")
    messages, kind = user("what is in the library?"), Alignment(instruction="be kind")
    with tiny_engine() as engine:
        done = await engine.agenerate(messages, kind, steering=steering, sampling=sampling)
    with tiny_engine() as engine:
        again = engine.generate(messages, kind, steering=steering, sampling=sampling)
    assert_alike(again.trace.tokens, done.trace.tokens)


def test_categories_that_the_schedule_would_never_look_at_are_refused():
    with pytest.raises(ConfigError, match="temperature_schedule='divergence' treats all tokens alike"):
        Steering(critical_categories="numbers")


@pytest.mark.slow
def test_the_real_vocabulary_has_the_tokens_that_one_expects(smollm2_float32):
    tokenizer = smollm2_float32.tokenizer
    size = smollm2_float32.model.config.vocab_size
    categories = TokenCategories(SafeTokenizer(tokenizer), size)
    for name, words in {
        "numbers": [" seven", "7", " three"],
        "negations": [" not", " never", "No", "'t"],
        "named_entities": [" Paris", " London", "The"],
    }.items():
        mask = categories.mask((name,))
        for word in words:
            (token_id,) = tokenizer.encode(word, add_special_tokens=False)
            assert mask[token_id], word
        for word in [" the", " run", "ing", ",", " I"]:
            (token_id,) = tokenizer.encode(word, add_special_tokens=False)
            assert not mask[token_id], word
        assert mask.sum() < size / 3
