"""Models whose layers carry states from token to token: rows stay apart, states are kept where others can begin."""

import asyncio
import gc
import threading
import weakref

import pytest
import torch

from sda_engine import Alignment, EngineSettings, Sampling, Steering, SteeringEngine
from sda_engine.alignment import resolve_alignment
from sda_engine.decoding import running_batch
from sda_engine.decoding.model_runner import ModelRunner
from sda_engine.decoding.prefix_store import PrefixStore
from sda_engine.decoding.prompt_state import PromptState
from sda_engine.decoding.segments import Segment
from sda_engine.decoding.states import MixerState
from sda_engine.errors import CapacityError
from sda_engine.models import Change, ModelWatch
from sda_engine.prompts import make_contexts
from sda_engine.steering import sigmoid_amplification
from sda_engine.testing import ScriptedEvaluator, tiny_tokenizer
from sda_engine.tokens import SafeTokenizer
from tests.conftest import user
from tests.sda_engine.decoding.architectures import largest_error, logits_of, rows_of
from tests.sda_engine.decoding.company import (
    Alone,
    Company,
    check_nothing_is_left,
    check_same,
    count_rows,
    dice,
    make_ask,
    worker,
)
from tests.sda_engine.decoding.forwarded import CONTEXT, KIND, Forwarded, prompt_ids
from tests.sda_engine.decoding.recurrent_models import SETTINGS, recurrent_model

GREEDY = Sampling(temperature=0, max_new_tokens=8)
FIXED = Steering(amplification=0.5)
POLITE = Alignment(instruction="be polite", avoid="be rude and loud", name="polite")
TEXTS = ("who is in the library?", "what is over a lazy dog, and who asks?", "fox", "the quick brown fox jumps " * 6)


@pytest.fixture(scope="module")
def model():
    made = recurrent_model()
    made.generation_config.eos_token_id = []
    return made


@torch.inference_mode()
def two_forwards(model, text, alignment, strength):
    """The tokens of a greedy steered answer by transformers alone, without a cache."""
    contexts = make_contexts(user(text), resolve_alignment(alignment), SafeTokenizer(tiny_tokenizer()))
    prompts = {name: [*contexts.shared, *tail] for name, tail in contexts.tails.items()}
    tokens = []
    while len(tokens) < GREEDY.max_new_tokens and tokens[-1:] != [model.generation_config.eos_token_id]:
        rows = {name: logits_of(model, [*ids, *tokens])[-1].double().log_softmax(-1) for name, ids in prompts.items()}
        scores = rows["instructed"] + strength * (rows["instructed"] - rows["base"])
        if "avoided" in rows:
            scores = scores - strength * (rows["avoided"] - rows["base"])
        tokens.append(int(scores.argmax()))
    return tokens


def answer(engine, text, alignment=None, **options):
    return engine.generate(user(text), alignment, sampling=GREEDY, **options)


def ask(question):
    return f"{CONTEXT}\n{question}"


# --- the same answers


@pytest.mark.parametrize("model_type", SETTINGS)
def test_rows_of_any_lengths_in_any_pieces_say_what_each_says_alone(model_type):
    assert largest_error(recurrent_model(model_type), lengths=(5, 41, 23), sizes=(9, 1, 7, 2)) < 1e-4


@pytest.mark.parametrize("model_type", SETTINGS)
def test_eight_requests_at_once_a_base_response_and_a_repeat_answer_as_two_forwards_do(model_type):
    model = recurrent_model(model_type)
    asks = [(text, alignment) for text in TEXTS for alignment in ("be brief", POLITE)]
    with SteeringEngine(model, tiny_tokenizer(), settings=EngineSettings(prefill_chunk=24)) as engine:

        async def all_at_once():
            asked = [engine.agenerate(user(text), how, steering=FIXED, sampling=GREEDY) for text, how in asks]
            return await asyncio.gather(*asked)

        together = asyncio.run(all_at_once())
        rated = answer(engine, TEXTS[0], "be brief", steering=Steering(evaluator=ScriptedEvaluator([40])))
        again = answer(engine, TEXTS[3], "be brief", steering=FIXED)
    for done, (text, how) in zip(together, asks, strict=True):
        assert list(done.token_ids) == two_forwards(model, text, how, 1.0)
    assert list(rated.token_ids) == two_forwards(model, TEXTS[0], "be brief", 2 * sigmoid_amplification(40))
    assert again.token_ids == together[6].token_ids
    assert len({done.token_ids for done in together}) >= 6


def test_every_request_answers_in_company_what_it_answers_alone_and_nothing_is_left(model, monkeypatch):
    monkeypatch.setattr(running_batch, "_AHEAD", 1)
    before = count_rows()
    rng, tokenizer = dice("recurrent"), tiny_tokenizer()
    pool = [make_ask(rng, max_words=24, max_new_tokens=12) for _ in range(12)]
    alone = Alone(model, tokenizer)
    for settings in (EngineSettings(), EngineSettings(cache_tokens=4000, prefill_chunk=16, max_rows=8)):
        with SteeringEngine(model, tokenizer, settings=settings) as engine:
            company = Company(engine, rng.sample(pool, 9), rng, 2)
            company.run()
            for number, completion in company.results.items():
                check_same(completion, alone.answer(company.asks[number]))
            check_nothing_is_left(engine)
    assert count_rows() == before


# --- states are kept, and taken back


def open_rows(runner, lengths):
    memory = runner.make_memory()
    rows = [memory.new_row() for _ in lengths]
    for row, token_ids in zip(rows, rows_of(lengths), strict=True):
        runner.forward([Segment(row, token_ids)])
    return rows


@torch.inference_mode()
def test_a_pass_that_fails_leaves_states_as_they_were(model):
    runner = ModelRunner(model)
    rows = open_rows(runner, (9, 14))
    before = [row.state for row in rows]
    fails = model.lm_head.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
    with pytest.raises(RuntimeError, match="out of memory"):
        runner.forward([Segment(row, [5]) for row in rows])
    fails.remove()
    assert [row.state for row in rows] == before
    logits = runner.forward([Segment(row, [7]) for row in rows])
    for last, token_ids in zip(logits, rows_of((9, 14)), strict=True):
        torch.testing.assert_close(last[0], logits_of(model, [*token_ids, 7])[-1], rtol=0, atol=1e-3)


@torch.inference_mode()
def test_a_row_is_cut_back_to_where_its_state_was_kept_and_another_begins_there(model):
    runner = ModelRunner(model)
    (row,) = open_rows(runner, (12,))
    row.keep_state()
    text = list(row.token_ids)
    runner.forward([Segment(row, [5, 6, 8])])
    fork = row.fork(12)
    row.truncate(12)
    both = runner.forward([Segment(row, [7]), Segment(fork, [9])])
    for last, token in zip(both, (7, 9), strict=True):
        torch.testing.assert_close(last[0], logits_of(model, [*text, token])[-1], rtol=0, atol=1e-3)
    with pytest.raises(KeyError):
        row.truncate(3)


@torch.inference_mode()
def test_a_state_that_is_kept_holds_none_of_the_rows_that_decoded_beside_it(model):
    runner = ModelRunner(model)
    rows = open_rows(runner, (9, 9, 9))
    runner.forward([Segment(row, [5]) for row in rows])
    batch = rows[0].state.batch
    assert batch.rows == 3, "rows that decode go through the layers as one batch"
    rows[1].keep_state()
    kept = rows[1].kept_states[10]
    assert kept.batch.rows == 1
    for name in ("conv_states", "recurrent_states"):
        together, alone = (getattr(held.layers[0], name)[0] for held in (batch, kept.batch))
        assert torch.equal(together[1:2], alone)
    gone = weakref.ref(batch)
    runner.forward([Segment(row, [6]) for row in rows])
    del batch, together
    gc.collect()
    assert gone() is None


@torch.inference_mode()
def test_the_model_is_as_it_was_after_a_pass_and_meanwhile_for_others(model):
    usual = logits_of(model, [5, 6, 7, 8])
    runner = ModelRunner(model)
    mine, seen = threading.get_ident(), []

    def ask_from_another_thread(*_):
        if threading.get_ident() == mine:
            thread = threading.Thread(target=lambda: seen.append(logits_of(model, [5, 6, 7, 8])))
            thread.start()
            thread.join(30)

    hook = model.model.layers[0].register_forward_pre_hook(ask_from_another_thread)
    open_rows(runner, (9,))
    hook.remove()
    assert torch.equal(seen[0], usual)
    assert torch.equal(logits_of(model, [5, 6, 7, 8]), usual)
    assert not any("forward" in vars(module) for module in model.modules())


@torch.inference_mode()
def test_a_pass_is_no_change_of_the_model_for_who_watches_it_meanwhile(model):
    runner, watch, seen = ModelRunner(model), ModelWatch(model), []
    hook = model.model.layers[0].linear_attn.out_proj.register_forward_pre_hook(lambda *_: seen.append(watch.look()))
    watch.look()  # a hook is one
    (row,) = open_rows(runner, (9,))
    hook.remove()
    assert seen == [Change.NOTHING]
    gone = weakref.ref(row)
    del row
    assert gone() is None, "the watch keeps a layer's forward, and that shall hold no rows"


# --- prefixes


def test_what_rows_share_is_read_once(model):
    with SteeringEngine(model, tiny_tokenizer()) as engine:
        counting = Forwarded(engine)
        contexts = make_contexts(user(ask("who?")), POLITE, engine._tokenizer)
        _, tokens = counting.of(user(ask("who?")), POLITE, sampling=GREEDY, steering=FIXED)
    rows = len(contexts.tails)
    assert rows == 3
    assert tokens == len(contexts.shared) + sum(map(len, contexts.tails.values())) + rows * 7


def test_the_same_question_again_reads_no_more_than_its_rows_have_of_their_own(model):
    with SteeringEngine(model, tiny_tokenizer()) as engine:
        counting = Forwarded(engine)
        contexts = make_contexts(user(ask("who?")), KIND, engine._tokenizer)
        first, _ = counting.of(user(ask("who?")), KIND, sampling=GREEDY, steering=FIXED)
        again, tokens = counting.of(user(ask("who?")), KIND, sampling=GREEDY, steering=FIXED)
    assert again.token_ids == first.token_ids
    assert again.usage.cached_prompt_tokens == len(contexts.shared)
    assert tokens == sum(map(len, contexts.tails.values())) + 2 * 7


def test_what_goes_on_from_an_answer_begins_where_that_ended(model):
    with SteeringEngine(model, tiny_tokenizer()) as engine:
        first = answer(engine, ask("who?"))
        so_far = [*prompt_ids(user(ask("who?"))), *first.token_ids]
        assert worker(engine)._batch._store.match([*so_far, 5, 6]) == len(so_far) - 1  # the last one is not fed back


def test_the_third_question_on_one_document_begins_where_the_second_parted_from_the_first(model):
    with SteeringEngine(model, tiny_tokenizer()) as engine:
        answers = [answer(engine, ask(question)) for question in ("who is in it?", "when does it open?", "where?")]
    cached = [done.usage.cached_prompt_tokens for done in answers]
    prompts = [prompt_ids(user(ask(question))) for question in ("who is in it?", "when does it open?")]
    parted = next(place for place, pair in enumerate(zip(*prompts, strict=False)) if len(set(pair)) > 1)
    assert cached == [0, 0, parted]
    with SteeringEngine(model, tiny_tokenizer(), settings=EngineSettings(prefix_cache=False)) as engine:
        assert answer(engine, ask("where?")).token_ids == answers[2].token_ids


def test_another_question_on_the_same_words_never_begins_with_a_state_of_the_first(model):
    with SteeringEngine(model, tiny_tokenizer()) as engine:
        answer(engine, "the quick brown fox")
        shorter = answer(engine, "the quick")
        assert shorter.usage.cached_prompt_tokens == 0
    with SteeringEngine(model, tiny_tokenizer()) as engine:
        assert answer(engine, "the quick").token_ids == shorter.token_ids


# --- memory


def test_states_count_in_memory_and_the_store_stays_within_its_share(model):
    settings = EngineSettings(cache_tokens=3000)
    with SteeringEngine(model, tiny_tokenizer(), settings=settings) as engine:
        cost = worker(engine)._batch._memory.state_cost.fixed
        assert cost > 10, "a state of these layers takes more than some tokens"
        for number in range(12):
            answer(engine, ask(f"question {number}?"), KIND, steering=FIXED)
            stats = engine.stats()
            assert stats.held_tokens == 0
            assert 0 < stats.stored_tokens <= 1500
        batch = worker(engine)._batch
        states = {node.state for node in batch._store._parents if node.state is not None}
        held = sum(len(node.token_ids) for node in batch._store._parents) + cost * len(states)
        assert batch._store.tokens == held
        assert states
        assert all(isinstance(state, MixerState) for state in states)


def test_a_request_whose_states_alone_are_too_large_is_refused(model):
    with SteeringEngine(model, tiny_tokenizer(), settings=EngineSettings(cache_tokens=200)) as engine:
        contexts = make_contexts(user("fox"), POLITE, engine._tokenizer)
        assert PromptState(contexts, GREEDY.max_new_tokens).tokens < 200
        assert answer(engine, "fox").token_ids
        with pytest.raises(CapacityError):
            answer(engine, "fox", POLITE, steering=FIXED)


def test_requests_that_do_not_fit_together_go_one_after_the_other_and_answer_alike(model):
    with SteeringEngine(model, tiny_tokenizer()) as engine:
        alone = [answer(engine, text, "be brief", steering=FIXED).token_ids for text in TEXTS]
        cost = worker(engine)._batch._memory.state_cost.fixed
    settings = EngineSettings(cache_tokens=7 * cost + 500, prefix_cache=False)
    with SteeringEngine(model, tiny_tokenizer(), settings=settings) as engine:

        async def all_at_once():
            asked = [engine.agenerate(user(text), "be brief", steering=FIXED, sampling=GREEDY) for text in TEXTS]
            return await asyncio.gather(*asked)

        assert [done.token_ids for done in asyncio.run(all_at_once())] == alone


def test_the_store_forgets_states_with_the_tokens_that_they_stand_behind(model):
    runner = ModelRunner(model)
    memory = runner.make_memory()
    store = PrefixStore(10_000, memory)
    with torch.inference_mode():
        row = memory.new_row()
        runner.forward([Segment(row, range(3, 23))])
        row.keep_state()
        runner.forward([Segment(row, range(23, 43))])
        row.keep_state()
    store.insert(row.token_ids, row.cut, row.kept_states)
    assert store.match(range(3, 43)) == 40
    assert store.match(range(3, 43), 39) == store.match(range(3, 40)) == 20
    assert store.known(range(3, 40)) == 37
    del row
    gc.collect()
    assert store.tokens == memory.tokens == 40 + 2 * memory.state_cost.fixed
    store.evict_oldest()
    assert store.tokens == memory.tokens == 20 + memory.state_cost.fixed
    store.clear()
    assert store.tokens == memory.tokens == 0
