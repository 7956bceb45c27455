"""Our engine, steered, through its own methods."""

import asyncio
from collections.abc import Sequence

from contenders import STRENGTH, Contender, Request, Sample, Source, one_after_the_other, timed
from peers import load_peer

from sda_engine import Alignment, Completion, Sampling, Steering, SteeringEngine
from sda_engine.evaluators import ContrastiveEvaluator
from sda_engine.prompts import BASE, INSTRUCTED, make_contexts

AMPLIFICATION = 0.5
STEERING = Steering(policy="paper", gain=STRENGTH / AMPLIFICATION, amplification=AMPLIFICATION)
SCORE_GUIDED = Steering(policy="paper", gain=STRENGTH / AMPLIFICATION, evaluator=ContrastiveEvaluator())
FIRST_ANSWER_TOKENS = 8  # of the question before the one whose first token is timed


def load_engine(source: Source) -> SteeringEngine:
    """The engine, once per process."""
    return SteeringEngine.load(source.folder, dtype=source.dtype)


def check_prompts(source: Source, request: Request) -> None:
    """Make sure that peers and engine get the same prompts.

    Raises:
        SystemExit: they do not.
    """
    contexts = make_contexts(request.messages, alignment(request), load_engine(source)._tokenizer)
    peer = load_peer(source)
    for row, instructed in ((BASE, False), (INSTRUCTED, True)):
        if peer.ids(request, instructed=instructed)[0].tolist() != [*contexts.shared, *contexts.tails[row]]:
            raise SystemExit(f"The engine and transformers render the {row} prompt differently: {request.messages[-1]}")


def alignment(request: Request) -> Alignment:
    """The request's instruction."""
    return Alignment(instruction=request.instruction)


def greedy(tokens: int) -> Sampling:
    """The most likely token, and at most so many."""
    return Sampling(temperature=0, max_new_tokens=tokens)


def steered(source: Source) -> Contender:
    """One request after the other."""
    engine = load_engine(source)

    def answer(request: Request, tokens: int) -> int:
        done = engine.generate(request.messages, alignment(request), steering=STEERING, sampling=greedy(tokens))
        return done.usage.completion_tokens

    return one_after_the_other(answer)


def all_at_once(source: Source) -> Contender:
    """All requests on one event loop."""
    engine = load_engine(source)

    async def answer_all(requests: Sequence[Request], tokens: Sequence[int]) -> list[Completion]:
        return await asyncio.gather(
            *(
                engine.agenerate(request.messages, alignment(request), steering=STEERING, sampling=greedy(most))
                for request, most in zip(requests, tokens, strict=True)
            )
        )

    def contender(requests: Sequence[Request], tokens: Sequence[int]) -> Sample:
        with timed() as watch:
            done = asyncio.run(answer_all(requests, tokens))
        return Sample(watch.seconds, tuple(one.usage.completion_tokens for one in done))

    return contender


def score_guided(source: Source) -> Contender:
    """Base response, contrastive score and steered answer, of one request."""
    engine = load_engine(source)

    def contender(requests: Sequence[Request], tokens: Sequence[int]) -> Sample:
        (request,) = requests
        sampling = greedy(tokens[0])
        with timed() as watch:
            done = engine.generate(request.messages, alignment(request), steering=SCORE_GUIDED, sampling=sampling)
        return Sample(watch.seconds, (done.usage.completion_tokens,), done.usage.base_response_tokens)

    return contender


def first_token(source: Source) -> Contender:
    """The first token of the first request."""
    engine = load_engine(source)
    return lambda requests, tokens: _first_token(engine, requests[0])


def second_question(source: Source) -> Contender:
    """The first token of the second request, after the first one was answered. Only the second is timed."""
    engine = load_engine(source)

    def contender(requests: Sequence[Request], tokens: Sequence[int]) -> Sample:
        first, second = requests
        engine.generate(first.messages, alignment(first), steering=STEERING, sampling=greedy(FIRST_ANSWER_TOKENS))
        return _first_token(engine, second)

    return contender


def _first_token(engine: SteeringEngine, request: Request) -> Sample:
    with timed() as watch:
        pieces = engine.stream(request.messages, alignment(request), steering=STEERING, sampling=greedy(2))
        next(piece for piece in pieces if piece.token_ids)
    pieces.close()
    return Sample(watch.seconds, (1,))
