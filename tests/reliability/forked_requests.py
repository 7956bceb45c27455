"""Makes requests in forked processes; a script for the tests, since a test process has threads that must not be forked.

Standard output: JSON, for each situation the exit status of the forked process, or "hangs".
"""

import asyncio
import itertools
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from sda_engine import Alignment, Constraint, Output, Sampling, Steering, SteeringEngine
from sda_engine.errors import EngineClosedError, SDAError
from sda_engine.evaluators import CachedEvaluator, ContrastiveEvaluator, EvaluationRequest, RewardModelEvaluator
from sda_engine.testing import ScriptedEvaluator, tiny_engine, tiny_model, tiny_reward_model, tiny_tokenizer

PATIENCE = 120  # seconds
QUESTION = [{"role": "user", "content": "who?"}]
GREEDY = Sampling(temperature=0, max_new_tokens=8)
HONESTY = Alignment(instruction="Be honest.")
SCHEMA = Output(constraint=Constraint.json_schema({"type": "object", "properties": {"a": {"type": "integer"}}}))

engine = tiny_engine()
reward = RewardModelEvaluator(tiny_reward_model())


def ask(number: int = 0) -> tuple[int, ...]:
    question = [{"role": "user", "content": f"question {number}"}]
    return engine.generate(question, "honesty", sampling=GREEDY).token_ids


def rate(evaluator: object) -> None:
    engine.generate(QUESTION, "honesty", steering=Steering(evaluator=evaluator), sampling=GREEDY)


def fork(work: Callable[[], object]) -> object:
    """The exit status of a forked process that does some work: 0 where it raises nothing."""
    process = os.fork()
    if process == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:  # noqa: BLE001 - it must not go on as if it were the parent
            traceback.print_exc()
        finally:
            os._exit(status)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return status
        time.sleep(0.005)
    os.kill(process, 9)
    os.waitpid(process, 0)
    return "hangs"


def expect(condition: bool) -> None:
    if not condition:
        raise AssertionError("not what was expected")


def situations() -> dict[str, object]:
    alone = ask()
    rate(reward)
    torch.ones(700, 700) @ torch.ones(700, 700)  # this thread has helpers of OpenMP, which no fork copies
    found: dict[str, object] = {}
    found["idle"] = fork(lambda: expect(ask() == alone))
    found["async"] = fork(lambda: asyncio.run(engine.agenerate(QUESTION, sampling=GREEDY)))
    found["grandchild"] = fork(lambda: expect(ask() == alone and fork(lambda: expect(ask() == alone)) == 0))
    found["contrastive"] = fork(lambda: rate(ContrastiveEvaluator()))
    found["reward model"] = fork(lambda: rate(reward))
    found["schema"] = fork(lambda: engine.generate(QUESTION, output=SCHEMA, sampling=GREEDY))
    found["a new engine"] = fork(lambda: tiny_engine(seed=2).generate(QUESTION, sampling=GREEDY))
    found["closed in the child"] = fork(engine.close)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        answers = pool.map_async(ask, range(4)).get(PATIENCE)
    found["pool"] = 0 if answers == [ask(number) for number in range(4)] else "wrong"
    found |= stream_in_flight()
    found |= threads_in_flight(alone)
    found |= stuck_in_flight(alone)
    found |= scores_in_flight()
    engine.close()
    found["closed before"] = fork(expect_closed)
    return found


def stream_in_flight() -> dict[str, object]:
    """A stream that this very thread reads goes on here, and is an error there."""
    model = tiny_model()
    model.generation_config.eos_token_id = []
    with SteeringEngine(model, tiny_tokenizer()) as endless:
        stream = endless.stream(QUESTION, sampling=Sampling(temperature=0, max_new_tokens=40))
        next(stream)

        def read_on() -> None:
            try:
                list(stream)
            except SDAError as error:
                expect("forked" in str(error))
                endless.generate(QUESTION, sampling=GREEDY)
            else:
                raise AssertionError("the child got an answer that is the parent's")

        status = fork(read_on)
        tokens = sum(len(piece.token_ids) for piece in stream)
    return {"stream": status, "stream in the parent": 0 if tokens == 39 else tokens}


def threads_in_flight(alone: tuple[int, ...]) -> dict[str, object]:
    """Forks at any moment of other threads' requests."""
    ended, answers = threading.Event(), []

    def go_on() -> None:
        while not ended.is_set():
            answers.append(ask())

    threads = [threading.Thread(target=go_on) for _ in range(3)]
    for thread in threads:
        thread.start()
    statuses = {fork(lambda: expect(ask() == alone)) for _ in range(10)}
    ended.set()
    for thread in threads:
        thread.join(PATIENCE)
    right = bool(answers) and all(answer == alone for answer in answers)
    return {"threads": 0 if statuses == {0} else sorted(map(str, statuses)), "threads in the parent": 0 if right else 1}


def stuck_in_flight(alone: tuple[int, ...]) -> dict[str, object]:
    """A pass that ends only after the fork, which cannot wait for it for ever."""
    began, gate, answers = threading.Event(), threading.Event(), []

    def wait(*_: object) -> None:
        began.set()
        gate.wait(PATIENCE)

    hook = engine.model.register_forward_pre_hook(wait)
    thread = threading.Thread(target=lambda: answers.append(ask()))
    thread.start()
    began.wait(PATIENCE)

    def ask_without_hook() -> None:
        hook.remove()
        expect(ask() == alone)

    status = fork(ask_without_hook)
    gate.set()
    thread.join(PATIENCE)
    hook.remove()
    return {"stuck": status, "stuck in the parent": 0 if answers == [alone] else 1}


def scores_in_flight() -> dict[str, object]:
    """Forks at any moment of other threads' statements."""
    ended, judge = threading.Event(), ScriptedEvaluator([50])
    with tempfile.TemporaryDirectory() as folder, CachedEvaluator(judge, Path(folder) / "scores.db") as cached:

        def rate_texts(thread: int) -> None:
            for number in itertools.takewhile(lambda _: not ended.is_set(), itertools.count()):
                cached.evaluate(EvaluationRequest(QUESTION, f"{thread} {number}", HONESTY))

        def is_kept() -> None:
            asked = len(judge.requests)
            cached.evaluate(EvaluationRequest(QUESTION, "kept", HONESTY))
            expect(len(judge.requests) == asked and cached.statistics.faults == 0)

        cached.evaluate(EvaluationRequest(QUESTION, "kept", HONESTY))
        threads = [threading.Thread(target=rate_texts, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        statuses = {fork(is_kept) for _ in range(20)}
        ended.set()
        for thread in threads:
            thread.join(PATIENCE)
        right = cached.statistics.faults == 0
    return {"scores": 0 if statuses == {0} else sorted(map(str, statuses)), "scores in the parent": 0 if right else 1}


def expect_closed() -> None:
    try:
        ask()
    except EngineClosedError:
        return
    raise AssertionError("it was closed before the fork")


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of Python 3.12 and later, about forks of processes with threads
    sys.stdout.write(json.dumps(situations()))
