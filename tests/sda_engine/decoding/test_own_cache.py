"""Models whose rows cannot share a flat pass answer on their own caches what two separate forward passes say."""

import asyncio
import gc
import json
import logging
import math

import pytest
import torch
from transformers import BertConfig, BertLMHeadModel, RwkvConfig, RwkvForCausalLM
from transformers.cache_utils import DynamicLayer

from sda_engine import Alignment, Constraint, EngineSettings, Output, Sampling, Steering, SteeringEngine
from sda_engine.decoding import running_batch
from sda_engine.decoding.cache_rows import CacheRow
from sda_engine.decoding.own_cache import OwnCacheRunner
from sda_engine.decoding.runners import make_runner
from sda_engine.decoding.segments import Segment
from sda_engine.errors import CapacityError, ModelLoadError
from sda_engine.prompts import make_contexts
from sda_engine.steering import sigmoid_amplification
from sda_engine.testing import ScriptedEvaluator, tiny_model, tiny_tokenizer
from tests.conftest import user
from tests.oracles import contexts_logprobs64
from tests.sda_engine.decoding.architectures import random_model, rows_of
from tests.sda_engine.decoding.company import SCHEMA, check_nothing_is_left, held_tokens
from tests.sda_engine.decoding.own_cache_models import own_cache_model

TEXTS = ("the quick fox", "Who asks?", "Tell me how the fox finds the library.", "Say it.")
PLAIN, AVOIDING = Alignment(instruction="Be brief."), Alignment(instruction="Be kind.", avoid="cold words")
STEPS = 3
GREEDY = Sampling(temperature=0, max_new_tokens=STEPS)
FIXED = Steering(policy="paper", amplification=0.5, avoid_strength=0.7)
WAYS = {  # type -> whether it reads pieces, and whether its caches can be joined
    "bloom": (True, True),
    "deepseek_v4": (True, False),
    "diffllama": (True, True),
    "falcon": (True, True),
    "gptj": (True, True),
    "jamba": (False, True),
    "mamba": (False, True),
    "minimax_m3_vl_text": (True, False),
    "zamba2": (True, True),
}
pytestmark = pytest.mark.default_policy


def engine_on(model, **settings):
    return SteeringEngine(model, tiny_tokenizer(), settings=EngineSettings(**{"prefill_chunk": 48, **settings}))


def contexts_of(engine, text, alignment):
    tokenizer = engine._tokenizer
    contexts = make_contexts(user(text), alignment, tokenizer, context_window=engine.context_window)
    return {name: [*contexts.shared, *tail] for name, tail in contexts.tails.items()}


@torch.inference_mode()
def is_exact(engine, answer, text, alignment, strength=1.0, avoid_strength=0.7):
    """Whether each token is the likeliest by the paper's equation, by one pass without a cache for each row."""
    tokens = list(answer.token_ids)
    logprobs = {
        name: torch.log_softmax(
            engine.model(input_ids=torch.tensor([[*prompt, *tokens]]), use_cache=False).logits[0].double(), -1
        )[len(prompt) - 1 : -1]
        for name, prompt in contexts_of(engine, text, alignment).items()
    }
    steered = logprobs["instructed"] + strength * (logprobs["instructed"] - logprobs["base"])
    if "avoided" in logprobs:
        steered = steered - avoid_strength * (logprobs["avoided"] - logprobs["base"])
    return steered.argmax(-1).tolist() == tokens and (len(tokens) == STEPS or tokens[-1] == 2)


def options(alignment, sampling=GREEDY):
    return {"alignment": alignment, "steering": FIXED.fitting(alignment), "sampling": sampling}


async def all_at_once(engine, asks, sampling=GREEDY):
    return await asyncio.gather(*(engine.agenerate(user(text), **options(one, sampling)) for text, one in asks))


@pytest.mark.parametrize("model_type", WAYS)
async def test_eight_requests_at_once_a_base_response_and_a_repeat_are_exact(model_type):
    asks = [(text, alignment) for text in TEXTS for alignment in (PLAIN, AVOIDING)]
    with engine_on(own_cache_model(model_type)) as engine:
        runner = engine._runner
        assert isinstance(runner, OwnCacheRunner)
        assert (runner.ways.pieces, runner.ways.joins) == WAYS[model_type]
        together = await all_at_once(engine, asks)
        assert all(is_exact(engine, answer, *ask) for answer, ask in zip(together, asks, strict=True))
        assert len({answer.token_ids for answer in together}) > 3
        rated = Steering(policy="paper", evaluator=ScriptedEvaluator([40]))
        staged = await engine.agenerate(user(TEXTS[0]), PLAIN, steering=rated, sampling=GREEDY)
        strength = 2.0 * sigmoid_amplification(40)
        assert is_exact(engine, staged, TEXTS[0], PLAIN, strength)
        again = await engine.agenerate(user(TEXTS[2]), **options(AVOIDING))
        assert again.token_ids == together[5].token_ids
        assert engine.stats().reused_tokens == 0
        check_nothing_is_left(engine)


@pytest.mark.parametrize("model_type", ["gptj", "mamba"])
def test_a_form_with_forced_tokens_is_kept_and_continuations_are_scored(model_type):
    with engine_on(own_cache_model(model_type)) as engine:
        output = Output(constraint=Constraint.json_schema(SCHEMA), schema_in_prompt=False)
        sampling = Sampling(temperature=0, max_new_tokens=40)
        answer = engine.generate(user("yes?"), **options(PLAIN, sampling), output=output)
        assert json.loads(answer.text)["yes"] in (True, False)
        texts = ["the fox", "a library of foxes and dogs, and all that they ask there"]
        scored = engine.continuation_logprobs(user("who?"), texts)
        for text, logprobs in zip(texts, scored, strict=True):
            token_ids = engine.encode(text)
            rows = contexts_logprobs64(engine.model, contexts_of(engine, "who?", PLAIN), token_ids)
            wanted = [rows["base"][place, token_id] for place, token_id in enumerate(token_ids)]
            assert float(logprobs) == pytest.approx(sum(wanted), abs=1e-3)


@pytest.mark.parametrize("model_type", ["gptj", "minimax_m3_vl_text"])
def test_a_pass_that_fails_leaves_all_rows_as_they_were_and_its_error_holds_none(model_type):
    runner = make_runner(own_cache_model(model_type))
    memory, texts = runner.make_memory(), rows_of((9, 14))
    rows = [memory.new_row() for _ in texts]

    def read(stop, step):
        return runner.forward([Segment(row, text[stop : stop + step]) for row, text in zip(rows, texts, strict=True)])

    with torch.inference_mode():
        read(0, 5)
        read(5, 1)
        held = memory.tokens
        last_layer = list(runner.model.modules())[-1]
        hook = last_layer.register_forward_hook(lambda *_: 1 / 0)
        segments = [Segment(row, text[6:7]) for row, text in zip(rows, texts, strict=True)]
        with pytest.raises(ZeroDivisionError) as kept:
            runner.forward(segments)
        hook.remove()
        assert [row.length for row in rows] == [6, 6]
        assert memory.tokens == held
        for last, text in zip(read(6, 1), texts, strict=True):
            whole = runner.model(input_ids=torch.tensor([text[:7]]), use_cache=False).logits[0, -1]
            assert torch.allclose(last[-1], whole, atol=1e-4)
        rows.clear()
        segments.clear()  # as a running batch does
        gc.collect()
        assert memory.tokens == 0
        assert kept.value.__traceback__ is not None


async def test_cancelled_requests_leave_no_memory():
    with engine_on(own_cache_model("falcon")) as engine:
        sampling = Sampling(temperature=0, max_new_tokens=200)
        tasks = [asyncio.create_task(engine.agenerate(user(text), PLAIN, sampling=sampling)) for text in TEXTS]
        await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        check_nothing_is_left(engine)
        gc.collect()
        assert not any(type(thing) is CacheRow for thing in gc.get_objects())


def test_a_request_that_is_larger_than_the_memory_is_refused():
    with engine_on(own_cache_model("falcon"), cache_tokens=300) as engine:
        with pytest.raises(CapacityError, match="300"):
            engine.generate(user("the fox asks " * 20), PLAIN, sampling=GREEDY)
        assert held_tokens(engine) == 0


async def test_answers_that_lent_their_memory_go_on_as_if_they_had_not(monkeypatch):
    monkeypatch.setattr(running_batch, "_AHEAD", 1)
    model = own_cache_model("falcon")
    model.generation_config.eos_token_id = []
    sampling = Sampling(temperature=0, max_new_tokens=60)
    asks = [(text, PLAIN) for text in TEXTS]
    with engine_on(model) as engine:
        expected = [engine.generate(user(text), **options(one, sampling)).token_ids for text, one in asks]
    with engine_on(model, cache_tokens=900) as engine:
        done = await all_at_once(engine, asks, sampling)
        assert [answer.token_ids for answer in done] == expected
        assert engine.stats().preemptions > 0
        assert engine.stats().held_tokens == 0


def test_revisions_go_on_from_one_prompt():
    asked = {"sampling": GREEDY, "steering": Steering(policy="revise", amplification=1.0)}
    with engine_on(own_cache_model("gptj")) as engine:
        first = engine.generate(user(TEXTS[0]), PLAIN, **asked)
        assert engine.generate(user(TEXTS[0]), PLAIN, **asked).token_ids == first.token_ids
        check_nothing_is_left(engine)


def test_the_runner_is_told_with_its_reason_and_logged_once(caplog):
    with caplog.at_level(logging.WARNING, "sda_engine"), engine_on(own_cache_model("mamba")) as engine:
        told = engine.describe()
        engine.generate(user("who?"), PLAIN, sampling=GREEDY)
    assert told["runner"] == "own cache"
    assert "no prefix is stored" in told["runner_reason"]
    (logged,) = (record.getMessage() for record in caplog.records if record.name.startswith("sda_engine"))
    assert told["runner_reason"] in logged
    with engine_on(tiny_model()) as engine:
        assert engine.describe()["runner"] == "flat"
        assert "runner_reason" not in engine.describe()


def bert():
    return random_model(BertLMHeadModel, BertConfig(**SMALL, intermediate_size=64, num_attention_heads=4))


SMALL = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2}


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: random_model(RwkvForCausalLM, RwkvConfig(**SMALL)), "no cache that a later pass could go on from"),
        (bert, "attention to tokens that follow"),
    ],
    ids=["rwkv", "bert"],
)
def test_what_neither_runner_can_run_is_refused_with_both_reasons(model, reason):
    with pytest.raises(ModelLoadError, match=f"in one pass; nor can it .*{reason}.*Load a model of another type"):
        make_runner(model())


def test_a_window_that_is_in_the_cache_alone_is_refused():
    model = own_cache_model("gptj")
    model.config.layer_types = ["reference_sliding_attention"] * 2
    with pytest.raises(ModelLoadError, match=r"'gptj' have a window that is in their cache alone"):
        OwnCacheRunner(model)


def write_in_place(layer, keys, values, *_, **__):
    """What a layer does that has room for 100 tokens and writes into it."""
    if not layer.is_initialized:
        layer.lazy_initialization(keys, values)
        layer.room = torch.zeros(2, *keys.shape[:-2], 100, keys.shape[-1])
        layer.keys = layer.values = layer.room[0][..., :0, :]
    start = layer.keys.shape[-2]
    layer.room[0][..., start : start + keys.shape[-2], :] = keys
    layer.room[1][..., start : start + keys.shape[-2], :] = values
    layer.keys, layer.values = (room[..., : start + keys.shape[-2], :] for room in layer.room)
    return layer.keys, layer.values


def test_what_a_model_writes_into_is_copied_as_a_whole(monkeypatch):
    model = own_cache_model("gptj")
    assert OwnCacheRunner(model).ways.shares
    monkeypatch.setattr(DynamicLayer, "update", write_in_place)
    assert not OwnCacheRunner(model).ways.shares


def test_logits_that_are_no_numbers_are_left_to_the_request_that_meets_them():
    model = own_cache_model("gptj")
    with torch.no_grad():
        model.lm_head.weight.fill_(math.nan)
    assert make_runner(model).name in ("flat", "own cache")
