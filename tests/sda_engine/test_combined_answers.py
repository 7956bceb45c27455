"""Several weighted alignments in one answer, through the engine."""

import json

import pytest
import torch

from sda_engine import Alignment, Constraint, Output, Sampling, Steering
from sda_engine.evaluators import CachedEvaluator, ContrastiveEvaluator
from sda_engine.prompts import make_contexts
from sda_engine.testing import ScriptedEvaluator
from tests.conftest import user
from tests.floats import LOGPROB, SCORE, assert_alike

QUESTION = user("what is in the library?")
PARTS = {"be kind": 2.0, "answer as a poet": 1.0, "honesty": 0.5}
GREEDY = Sampling(temperature=0, max_new_tokens=16)
SAMPLED = Sampling(temperature=0.8, max_new_tokens=16, seed=5, logprobs=3)
STRONG = Steering(amplification=1.0)


@torch.inference_mode()
def logprobs_by_transformers(engine, alignment, text=""):
    """Row -> (tokens + 1, vocab) nats behind the prompt and behind each token of a text, by one plain pass each."""
    contexts = make_contexts(QUESTION, alignment, engine._tokenizer)
    answer = engine.encode(text)
    logprobs = {}
    for row, tail in contexts.tails.items():
        ids = torch.tensor([[*contexts.shared, *tail, *answer]])
        logits = engine.model(input_ids=ids, use_cache=False).logits[0, -len(answer) - 1 :]
        logprobs[row] = torch.log_softmax(logits.double(), dim=-1)
    return logprobs


def mixture_by_transformers(engine, alignment, text=""):
    """(tokens + 1, vocab) nats of the base context and of the mixture of the instructed ones."""
    logprobs = logprobs_by_transformers(engine, alignment, text)
    instructed = [values for row, values in logprobs.items() if row.startswith("instructed")]
    factors = [values.exp() ** weight for values, weight in zip(instructed, alignment.weights, strict=True)]
    product = torch.stack(factors).prod(dim=0)
    return logprobs["base"], (product / product.sum(dim=-1, keepdim=True)).log()


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("policy", ["paper", "budget", "revise"])
def test_one_entry_is_the_single_alignment_to_the_bit(engine, sampling, policy):
    steering = Steering(policy=policy)
    for _ in range(2):  # the second finds its prompt stored, like all that follow: a prompt alone has other last digits
        single = engine.generate(QUESTION, "be kind", steering=steering, sampling=sampling)
    parts = Alignment(parts=((Alignment(instruction="be kind"), 0.3),))  # not even simplified by `combine`
    for given in ({"be kind": 3.0}, [("be kind", 1)], parts):
        done = engine.generate(QUESTION, given, steering=steering, sampling=sampling)
        assert (done.text, done.token_ids, done.attempts) == (single.text, single.token_ids, single.attempts)
        assert done.trace == single.trace
        assert done.logprobs == single.logprobs


def test_what_the_trace_shows_of_a_token_is_the_mixture(engine):
    alignment = Alignment.combine(PARTS)
    done = engine.generate(QUESTION, alignment, steering=STRONG, sampling=GREEDY)
    base, mixture = (values[0] for values in mixture_by_transformers(engine, alignment))
    token = done.trace.tokens[0]
    assert [shown.probability for shown in token.base] == pytest.approx(base.exp().topk(3).values.tolist(), abs=1e-5)
    best = mixture.exp().topk(3).values.tolist()
    assert [shown.probability for shown in token.instructed] == pytest.approx(best, abs=1e-5)
    steered = (mixture + 2.0 * (mixture - base)).softmax(-1)
    assert done.token_ids[0] == int(steered.argmax())
    middle = (base.exp() + mixture.exp()) / 2
    divergence = sum((one.exp() * (one - middle.log())).sum() for one in (base, mixture)) / 2
    assert token.divergence == pytest.approx(float(divergence), abs=1e-5)
    assert done.trace.alignment == "custom+custom+honesty"


def test_ratios_of_weights_decide_and_not_their_order(engine):
    done = engine.generate(QUESTION, PARTS, steering=STRONG, sampling=SAMPLED)
    backwards = list(PARTS.items())[::-1]
    for same in ({text: 7.3 * weight for text, weight in PARTS.items()}, backwards):
        again = engine.generate(QUESTION, same, steering=STRONG, sampling=SAMPLED)
        assert again.token_ids == done.token_ids
        for ours, theirs in zip(again.trace.tokens, done.trace.tokens, strict=True):
            assert_alike(ours, theirs, tolerance=LOGPROB)
    other = engine.generate(QUESTION, {**PARTS, "be kind": 0.01}, steering=STRONG, sampling=SAMPLED)
    assert other.trace.divergence != pytest.approx(done.trace.divergence, abs=LOGPROB)


def test_next_to_no_weight_is_next_to_none(engine):
    single = engine.generate(QUESTION, "be kind", steering=STRONG, sampling=GREEDY)
    done = engine.generate(QUESTION, {"be kind": 1.0, "honesty": 1e-12}, steering=STRONG, sampling=GREEDY)
    assert done.token_ids == single.token_ids
    assert done.trace.divergence == pytest.approx(single.trace.divergence, abs=LOGPROB)


async def test_all_forms_answer_alike(engine):
    done = engine.generate(QUESTION, PARTS, sampling=SAMPLED)
    assert (await engine.agenerate(QUESTION, PARTS, sampling=SAMPLED)).token_ids == done.token_ids
    *_, last = engine.stream(QUESTION, PARTS, sampling=SAMPLED)
    *_, alast = [piece async for piece in engine.astream(QUESTION, list(PARTS.items()), sampling=SAMPLED)]
    assert last.completion.token_ids == alast.completion.token_ids == done.token_ids


def test_the_form_of_an_answer_holds_under_several_contexts(engine):
    output = Output(constraint=Constraint.json_schema({"enum": ["yes", "no"]}))
    for policy in ("paper", "budget", "revise"):
        done = engine.generate(QUESTION, PARTS, steering=Steering(policy=policy), sampling=SAMPLED, output=output)
        assert json.loads(done.text) in ("yes", "no")


@pytest.mark.parametrize("text", ["a", "the fox asks how to answer the question"])
def test_a_response_is_rated_by_its_log_probabilities_under_the_mixture(engine, text):
    alignment = Alignment.combine(PARTS, avoid="rude text")
    base, mixture = mixture_by_transformers(engine, alignment, text)
    ids = torch.tensor(engine.encode(text)).unsqueeze(-1)
    expected = [values[:-1].gather(-1, ids).squeeze(-1) for values in (base, mixture)]
    evaluator = ScriptedEvaluator([50], needs_logprobs=True)
    engine.rate(QUESTION, text, alignment, evaluator)
    (asked,) = evaluator.requests
    for got, values in zip((asked.base_logprobs, asked.instructed_logprobs), expected, strict=True):
        torch.testing.assert_close(got, values.float(), atol=LOGPROB, rtol=0)
    gain = float((expected[1] - expected[0]).mean())
    score = engine.rate(QUESTION, text, alignment, ContrastiveEvaluator(sharpness=1.0)).value
    assert score == pytest.approx(100 * torch.tensor(gain).sigmoid().item(), abs=SCORE)


def test_base_response_and_revisions_are_rated_by_the_same_mixture(engine):
    evaluator, chooser = (ScriptedEvaluator([50], needs_logprobs=True) for _ in range(2))
    steering = Steering(policy="revise", evaluator=evaluator, chooser=chooser, keep="nothing")
    done = engine.generate(QUESTION, PARTS, steering=steering, sampling=SAMPLED)
    assert done.base_response is not None
    for request in (*evaluator.requests, *chooser.requests):
        assert request.alignment == Alignment.combine(PARTS)
    rated = [request for request in chooser.requests if request.instructed_logprobs is not None]
    assert rated
    assert {request.instructed_logprobs.shape == request.base_logprobs.shape for request in rated} == {True}


def test_scores_are_kept_apart_by_weights(engine):
    inner = ScriptedEvaluator([10, 20, 30])
    cached = CachedEvaluator(inner)
    given = [{"be kind": 1, "honesty": 1}, {"be kind": 2, "honesty": 1}, {"be kind": 1, "honesty": 1}, "be kind"]
    assert [engine.rate(QUESTION, "a", one, cached).value for one in given] == [10, 20, 10, 30]


def test_several_rows_are_let_go_of(engine):
    before = engine.stats()
    engine.generate(QUESTION, PARTS, sampling=GREEDY)
    assert engine.stats().rows == before.rows == 0
