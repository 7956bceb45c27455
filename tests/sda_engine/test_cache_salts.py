"""Requests of different salts find nothing of each other in any cache, so that no time tells what others have asked."""

import asyncio
import logging
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from sda_engine import Alignment, Completion, EngineSettings, Sampling, Steering, SteeringEngine
from sda_engine.adapting import describe_settings
from sda_engine.decoding.prefix_store import common_length
from sda_engine.decoding.prompt_state import PromptState
from sda_engine.errors import ConfigError
from sda_engine.evaluators import CachedEvaluator, EnsembleEvaluator, FixedScore, SelfRatingEvaluator
from sda_engine.models import Adapter
from sda_engine.request_settings import RequestSettings, hash_salt
from sda_engine.testing import (
    ScriptedEngine,
    ScriptedEvaluator,
    tiny_model,
    tiny_tokenizer,
    tiny_vision_engine,
)
from sda_engine.tokens.known_words import KnownWords
from tests.conftest import user
from tests.sda_engine.decoding import greedy
from tests.sda_engine.decoding.company import check_nothing_is_left, worker
from tests.sda_engine.decoding.forwarded import CONTEXT, KIND
from tests.sda_engine.vision.vision_models import picture

GREEDY = Sampling(temperature=0, max_new_tokens=4)
SECRET = "tenant-7-hunter2"
ONE_BY_ONE = EngineSettings(proposals=0)
STEERINGS = {
    "fixed": Steering(amplification=0.5),
    "rated": Steering(evaluator=ScriptedEvaluator([40])),
    "rated by itself": Steering(evaluator=SelfRatingEvaluator()),
    "revised": Steering(policy="revise", amplification=0.5, keep="nothing"),
}


class Asked(NamedTuple):
    """What came of a request, the tokens of each pass that it took, and how many were reused for it."""

    done: Completion
    sizes: list[int]
    reused: int

    @property
    def of_passes(self):
        return self.sizes, self.reused


class Passes:
    """An engine, and how many tokens each of its passes takes in."""

    def __init__(self, engine):
        self.engine = engine
        self.sizes = []
        engine.model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module, args, kwargs):
        self.sizes.append(kwargs["input_ids"].numel())

    def of(self, question, salt, **options):
        begun, reused = len(self.sizes), self.engine.stats().reused_tokens
        done = self.engine.generate(
            user(f"{CONTEXT}\n{question}"), sampling=GREEDY, **({} if salt is None else {"cache_salt": salt}), **options
        )
        return Asked(done, self.sizes[begun:], self.engine.stats().reused_tokens - reused)


def endless_engine():
    model = tiny_model()
    model.generation_config.eos_token_id = []
    return SteeringEngine(model, tiny_tokenizer(), settings=ONE_BY_ONE)


# --- prompts


def asked_by(*salts, **options):
    """What comes of the same question of several salts, one after the other, see `Passes.of`."""
    with endless_engine() as engine:
        passes = Passes(engine)
        return [passes.of("who?", salt, alignment=KIND, **options) for salt in salts]


@pytest.mark.parametrize(("mine", "others"), [("a", "b"), ("a", None), (None, "a")])
def test_a_prompt_is_read_again_where_it_was_stored_under_another_salt(mine, others):
    (miss,), (_, apart, hit) = asked_by(mine), asked_by(others, mine, mine)
    assert miss.of_passes == apart.of_passes
    assert [one.done.usage.cached_prompt_tokens for one in (miss, apart)] == [0, 0]
    assert hit.done.usage.cached_prompt_tokens == hit.done.usage.prompt_tokens - 1
    assert sum(hit.sizes) < sum(miss.sizes) / 2
    assert miss.done.token_ids == apart.done.token_ids == hit.done.token_ids


@pytest.mark.parametrize("steering", STEERINGS.values(), ids=STEERINGS)
def test_no_stage_of_a_request_finds_what_one_of_another_salt_has_stored(steering):
    (alone,), (_, apart, same) = asked_by("a", steering=steering), asked_by("a", "b", "b", steering=steering)
    assert alone.of_passes == apart.of_passes != same.of_passes


async def test_requests_of_other_salts_do_not_wait_for_each_others_prompts():
    """Those of one salt do: the second begins with what the first is about to store."""

    async def tokens_of(*salts):
        with endless_engine() as engine:
            passes = Passes(engine)
            asked = [user(f"{CONTEXT * 3}\n{number}") for number in range(len(salts))]
            await asyncio.gather(
                *(
                    engine.agenerate(one, sampling=GREEDY, cache_salt=salt)
                    for one, salt in zip(asked, salts, strict=True)
                )
            )
            check_nothing_is_left(engine)
            return sum(passes.sizes), engine.stats().reused_tokens

    (together, reused), (apart, none) = await tokens_of("a", "a"), await tokens_of("a", "b")
    assert reused > 64
    assert (together + reused, 0) == (apart, none)


def test_a_salt_makes_other_tokens_of_a_text_under_each_adapter():
    contexts = greedy.make_contexts()
    keys = [
        PromptState(contexts, 1, adapter=adapter, salt=hash_salt(salt)).stored_as(range(5, 12))
        for adapter in (None, Adapter("polite", 1))
        for salt in (None, "a", "b")
    ]
    assert all(common_length(one, other) == 0 for one in keys for other in keys if one is not other)
    assert [key[4:].tolist() for key in keys[:3]] == [[9, 10, 11]] * 3


@pytest.mark.parametrize("length", [1, 3, 4, 5])
def test_the_tokens_of_a_request_stay_what_they_are_and_short_texts_are_told_apart_too(length):
    ids = greedy.make_contexts().shared * 2
    salted = PromptState(greedy.make_contexts(), 1, salt=hash_salt("a"))
    given = PromptState(greedy.make_contexts(), 1).stored_as(ids[:length])
    before = given.tolist()
    assert salted.stored_as(given)[0] != before[0]
    assert given.tolist() == before
    assert salted.stored_as(given).tolist() == salted.stored_as(ids[:length]).tolist()


def test_many_salts_take_no_more_room_than_one():
    settings = EngineSettings(cache_tokens=400, proposals=0)
    with SteeringEngine(tiny_model(), tiny_tokenizer(), settings=settings) as engine:
        for number in range(40):
            engine.generate(user(f"who is it? {number}"), sampling=Sampling(max_new_tokens=1), cache_salt=f"{number}")
        store = worker(engine)._batch._store
        assert 0 < store.tokens <= 200
        assert len(store._parents) <= store.tokens


# --- pictures and words


def seen(engine, salt, number=1, **options):
    content = [{"type": "image", "image": picture(number)}, {"type": "text", "text": "What is it?"}]
    return engine.generate([{"role": "user", "content": content}], sampling=GREEDY, cache_salt=salt, **options)


def test_a_picture_is_prepared_and_looked_at_again_for_another_salt():
    prepared = []
    with tiny_vision_engine() as engine:
        chats = engine._tokenizer._picture_chats
        read = chats._read
        chats._read = lambda *arguments: prepared.append(1) or read(*arguments)
        answers = [seen(engine, salt) for salt in ("a", "a", "b", "b", None, None)]
        assert engine.stats().pictures_read == len(prepared) == 3
    assert [answer.usage.cached_prompt_tokens > 0 for answer in answers] == [False, True] * 3
    assert len({answer.token_ids for answer in answers}) == 1


def test_blank_pictures_are_kept_apart_too():
    with tiny_vision_engine() as engine:
        blank = Alignment(instruction="Look.", blank_picture=True)
        for salt in ("a", "b"):
            seen(engine, salt, alignment=blank, steering=Steering(amplification=0.5))
        assert engine.stats().pictures_read == 4


def test_counting_the_tokens_of_a_picture_makes_it_known_to_its_salt_alone():
    content = [{"type": "image", "image": picture(1)}]
    with tiny_vision_engine() as engine:
        counted = {
            salt: engine.count_prompt_tokens([{"role": "user", "content": content}], cache_salt=salt)
            for salt in ("a", "b", None)
        }
        assert len(engine._tokenizer._picture_chats._prepared) == 3
        assert len(set(counted.values())) == 1


def test_a_tokenizer_remembers_the_words_of_one_salt_at_a_time(monkeypatch):
    cleared = []
    tokenizer = tiny_tokenizer()
    assert callable(tokenizer.backend_tokenizer.model._clear_cache)  # a part of tokenizers that is not documented
    model = SimpleNamespace(_clear_cache=lambda: cleared.append(None))
    monkeypatch.setattr(type(tokenizer), "backend_tokenizer", property(lambda _: SimpleNamespace(model=model)))
    words, counts = KnownWords(tokenizer), []
    for salt in (None, b"a", b"a", b"b", None):
        words.forget_others(salt)
        counts.append(len(cleared))
    assert counts == [0, 1, 1, 2, 3]
    del model._clear_cache  # models that know whole words only have none
    words.forget_others(b"c")


@pytest.mark.parametrize("steering", STEERINGS.values(), ids=STEERINGS)
def test_every_text_of_a_request_is_encoded_among_words_of_its_salt(engine, monkeypatch, steering):
    salts = []
    monkeypatch.setattr(engine._tokenizer._words, "forget_others", salts.append)
    engine.generate(user("who?"), KIND, steering=steering, sampling=GREEDY, cache_salt="a")
    assert set(salts) == {hash_salt("a")}


# --- scores


@pytest.mark.parametrize("nested", [False, True])
def test_a_kept_score_is_found_by_requests_of_its_salt_alone(engine, nested):
    judge = ScriptedEvaluator([60])
    kept = CachedEvaluator(judge)
    evaluator = CachedEvaluator(EnsembleEvaluator([kept, FixedScore(50)])) if nested else kept
    steering = Steering(evaluator=evaluator)
    asked = []
    for salt in ("a", "a", "b", None, None, "a"):
        engine.generate(user("who?"), "be kind", steering=steering, sampling=GREEDY, cache_salt=salt)
        asked.append(len(judge.requests))
    assert asked == [1, 1, 2, 3, 3, 3]


def test_revisions_are_rated_again_for_another_salt(engine):
    judge = ScriptedEvaluator([60])
    steering = Steering(policy="revise", keep="nothing", amplification=0.5, chooser=CachedEvaluator(judge))
    asked = []
    for salt in ("a", "a", "b"):
        engine.generate(user("who?"), "be kind", steering=steering, sampling=GREEDY, cache_salt=salt)
        asked.append(len(judge.requests))
    assert asked[0] == asked[1] == asked[2] / 2 > 0


def test_words_of_plain_texts_are_remembered_for_one_salt_alone(engine, monkeypatch):
    salts = []
    monkeypatch.setattr(engine._tokenizer._words, "forget_others", salts.append)
    assert engine.encode("who?", cache_salt="a") == engine.encode("who?")
    assert salts == [hash_salt("a"), None]


# --- the salt itself


@pytest.mark.parametrize("salt", ["", "x" * 257, 7, b"bytes", ["x"]])
def test_what_is_no_salt_is_refused_and_not_shown(engine, salt):
    with pytest.raises(ConfigError, match=r"cache_salt cannot be .*1 to 256 characters") as raised:
        engine.generate(user("who?"), cache_salt=salt)
    with pytest.raises(ConfigError, match="cache_salt"):
        engine.count_prompt_tokens(user("who?"), cache_salt=salt)
    assert "xx" not in str(raised.value)
    assert "bytes'" not in str(raised.value)


@pytest.mark.parametrize("salt", ["x", "x" * 256, "\ud800", "ключ", None])
def test_any_other_text_is_a_salt(engine, salt):
    assert engine.generate(user("who?"), sampling=GREEDY, cache_salt=salt).token_ids


def test_a_salt_shows_nowhere(caplog):
    caplog.set_level(logging.DEBUG)
    evaluator = CachedEvaluator(ScriptedEvaluator([50]))
    with ScriptedEngine(["hello", ValueError("no")]) as engine:
        steering = Steering(evaluator=evaluator)
        done = engine.generate(user("who?"), "be kind", steering=steering, cache_salt=SECRET)
        with pytest.raises(Exception, match="no") as raised:
            engine.generate(user("who?"), cache_salt=SECRET)
        (request, _), settings = engine.requests, RequestSettings(cache_salt=SECRET)
        assert request.cache_salt == settings.arguments()["cache_salt"] == SECRET
        told = [done, request, settings, describe_settings(settings), engine.describe(), engine.stats(), engine]
        told += [raised.value, evaluator, evaluator.name, *map(vars, evaluator.evaluator.requests), caplog.text]
        digest = hash_salt(SECRET).hex()
        assert not any(SECRET in repr(one) or digest in repr(one) for one in told)
    assert "pass" in caplog.text  # of which the log does tell
