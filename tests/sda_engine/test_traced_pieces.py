"""What steering did at a token comes with the piece of the stream that gives it."""

import pytest

from sda_engine import Constraint, Output, Sampling, Steering
from sda_engine.choosing import Revision
from sda_engine.evaluators import FixedScore
from sda_engine.testing import ScriptedEngine, ScriptedEvaluator
from tests.conftest import user

QUESTION = user("what is in the library?")
SAMPLING = Sampling(temperature=0.8, max_new_tokens=12, seed=5)
FORM = Output(constraint=Constraint.regex("the answer is [a-z]{3}"))

GROWING = {
    "plain": (None, {}),
    "steered": ("be kind", {"steering": Steering(evaluator=FixedScore(30))}),
    "with a budget": ("be kind", {"steering": Steering(policy="budget", budget=1.0, amplification=1.0)}),
    "in a form": ("be kind", {"output": FORM}),
}
WHOLE = {
    "revised": Steering(
        policy="revise", revisions=(Revision(factor=2),), keep="nothing", chooser=ScriptedEvaluator([90, 10])
    ),
    "accepted": Steering(policy="budget", evaluator=ScriptedEvaluator([95]), accept_score=90),
}


def pieces_of(engine, alignment, **options):
    return list(engine.stream(QUESTION, alignment, sampling=SAMPLING, **options))


def joined(pieces):
    return tuple(token for piece in pieces for token in piece.trace)


@pytest.mark.parametrize("asked", GROWING.values(), ids=GROWING)
def test_each_piece_of_a_growing_answer_tells_of_its_tokens(engine, asked):
    alignment, options = asked
    *growing, last = pieces_of(engine, alignment, **options)
    assert len(growing) > 3
    assert all(tuple(token.token_id for token in piece.trace) == piece.token_ids for piece in growing)
    assert (last.token_ids, last.trace) == ((), ())
    assert joined(growing) == last.completion.trace.tokens
    assert any(token.divergence > 0 for token in joined(growing)) == (alignment is not None)


def test_the_pieces_of_tokens_that_a_form_forced_say_so(engine):
    *growing, last = pieces_of(engine, "be kind", output=FORM)
    forced = [piece.trace[0].forced for piece in growing]
    assert forced == [token.forced for token in last.completion.trace.tokens]
    assert {True, False} == set(forced)


@pytest.mark.parametrize("steering", WHOLE.values(), ids=WHOLE)
def test_an_answer_that_comes_whole_tells_of_all_its_tokens_at_once(engine, steering):
    (whole,) = pieces_of(engine, "be kind", steering=steering)
    assert any(attempt.chosen for attempt in whole.completion.attempts) == (steering.policy == "revise")
    assert whole.token_ids == tuple(token.token_id for token in whole.trace)
    assert whole.trace == whole.completion.trace.tokens != ()


async def test_an_event_loop_is_given_the_same(engine):
    pieces = [piece async for piece in engine.astream(QUESTION, "be kind", sampling=SAMPLING)]
    assert joined(pieces) == joined(pieces_of(engine, "be kind")) == pieces[-1].completion.trace.tokens


def test_text_that_is_held_back_is_told_of_with_the_token_that_completed_it():
    with ScriptedEngine("a é b", chat_template=None) as engine:
        *growing, last = list(engine.stream(QUESTION, None, sampling=Sampling(temperature=0)))
    assert "".join(token.text for piece in growing for token in piece.trace) == last.completion.text == "a é b"
    assert any(piece.trace[0].text == "" for piece in growing)
