"""Requests that nobody waits for any more, and proposals that nobody learns from."""

import asyncio
import gc
import time

import pytest

from sda_engine import EngineSettings, Sampling, Steering
from sda_engine.decoding.model_runner import ModelRunner
from sda_engine.decoding.proposals import Proposer
from sda_engine.decoding.scheduler import Scheduler, _loop_sink
from sda_engine.evaluators import FixedScore
from sda_engine.testing import tiny_engine, tiny_model
from tests.conftest import user
from tests.sda_engine.decoding.company import held_tokens
from tests.sda_engine.decoding.greedy import Greedy, make_prompt


def test_a_task_whose_event_loop_was_closed_is_cancelled():
    """Nothing else cancels it: a loop that is closed cancels none of its tasks."""
    task = Greedy("task", steps=100_000, prompt=make_prompt())

    async def connect():
        task.connect(_loop_sink(task, asyncio.Queue()))

    asyncio.run(connect())
    scheduler = Scheduler(ModelRunner(tiny_model()), EngineSettings(), 10**9)
    scheduler.submit(task)
    for _ in range(1000):
        if task.prompt.released:
            break
        time.sleep(0.01)
    assert task.log[-1] == ("task", "cancelled")
    scheduler.close()


class Hanging(FixedScore):
    """Rates never; whoever waits is cancelled or interrupted."""

    needs_response = True

    def __init__(self, asked=None):
        super().__init__(50)
        self.asked = asked

    def evaluate(self, request):
        raise KeyboardInterrupt

    async def aevaluate(self, request):
        self.asked.set()
        await asyncio.sleep(600)


async def test_a_request_that_is_cancelled_while_it_is_rated_keeps_no_rows():
    with tiny_engine() as engine:
        asked = asyncio.Event()
        steering = Steering(evaluator=Hanging(asked))
        request = asyncio.create_task(engine.agenerate(user("who?"), "be kind", steering=steering))
        await asked.wait()
        assert held_tokens(engine) > 0
        request.cancel()
        with pytest.raises(asyncio.CancelledError) as kept:
            await request
        assert held_tokens(engine) == 0
        assert kept.value.__traceback__ is not None, "the exception knows the frames in which the rows were"


def test_a_request_that_is_interrupted_while_it_is_rated_keeps_no_rows():
    with tiny_engine() as engine:
        with pytest.raises(KeyboardInterrupt) as kept:
            engine.generate(user("who?"), "be kind", steering=Steering(evaluator=Hanging()))
        gc.collect()
        assert held_tokens(engine) == 0
        assert kept.value.__traceback__ is not None


def test_decoding_tells_the_proposer_how_many_of_its_tokens_were_right(monkeypatch):
    """Each proposal that was not empty, once, and the sum of it is in the answer."""
    proposed, learned = [], []
    propose, learn = Proposer.propose, Proposer.learn

    def note_proposal(proposer, most=None):
        tokens = propose(proposer, most)
        if tokens:
            proposed.append(tokens)
        return tokens

    def note_lesson(proposer, accepted):
        learned.append(accepted)
        learn(proposer, accepted)

    monkeypatch.setattr(Proposer, "propose", note_proposal)
    monkeypatch.setattr(Proposer, "learn", note_lesson)
    with tiny_engine() as engine:
        answer = engine.generate(user("the fox and the fox and the fox"), sampling=Sampling(temperature=0))
    assert proposed
    assert len(learned) == len(proposed)
    text = list(answer.token_ids)
    for tokens, accepted in zip(proposed, learned, strict=True):
        assert 0 <= accepted <= len(tokens)
        run = tokens[:accepted]
        assert not run or any(text[place : place + accepted] == run for place in range(len(text)))
