import asyncio
import copy
import importlib
import logging
import multiprocessing
import os
import pickle
import sqlite3
import stat
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest
import torch

from sda_engine import Steering
from sda_engine.alignment import PRESETS, Alignment
from sda_engine.errors import ConfigError, EvaluationError
from sda_engine.evaluators import (
    ContrastiveEvaluator,
    EvaluationRequest,
    Evaluator,
    FixedScore,
    OpenAIEvaluator,
    Score,
)
from sda_engine.evaluators import score_store as module
from sda_engine.evaluators.cached import CachedEvaluator, _make_key
from sda_engine.evaluators.ensemble import EnsembleEvaluator
from sda_engine.evaluators.protocol import EvaluatorUsage, evaluator_identity
from sda_engine.testing import ScriptedEvaluator, tiny_engine
from tests.sizes import size

CHAT = [{"role": "user", "content": "2 + 2?"}]
HONESTY = PRESETS["honesty"]
RATED = EvaluationRequest(CHAT, "It is four.", HONESTY)
ROUTES = ["sync", "async"]
PLACES = ["memory", "file"]


class Judge:
    """Returns or raises the outcomes that it is given in turn, the last for ever, and keeps the requests."""

    needs_response = True
    name = "Judge()"

    def __init__(self, *outcomes):
        self.outcomes = outcomes
        self.requests = []

    @property
    def calls(self):
        return len(self.requests)

    def evaluate(self, request):
        outcome = self.outcomes[min(self.calls, len(self.outcomes) - 1)]
        self.requests.append(request)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def aevaluate(self, request):
        return self.evaluate(request)


class Nameless(Judge):
    @property
    def name(self):
        raise AttributeError


class SelfJudge(Judge):
    """Asks the model that gave the response."""

    def evaluate(self, request):
        super().evaluate(request)
        logprobs = request.model.continuation_logprobs(request.messages, ["yes"])
        return Score(value=60.0 / (1.0 - float(logprobs[0])), evaluator=self.name)

    async def aevaluate(self, request):
        super().evaluate(request)
        logprobs = await request.model.acontinuation_logprobs(request.messages, ["yes"])
        return Score(value=60.0 / (1.0 - float(logprobs[0])), evaluator=self.name)


class Model:
    """A local model that finds every text equally likely."""

    def __init__(self, logprob):
        self.logprob = logprob

    def continuation_logprobs(self, messages, continuations):
        return torch.full((len(continuations),), self.logprob)

    async def acontinuation_logprobs(self, messages, continuations):
        return self.continuation_logprobs(messages, continuations)


class DescribedModel(Model):
    def describe(self):
        return {"model": f"model-{self.logprob}"}


def scored(value=80.0, **fields):
    return Score(value=value, evaluator="Judge()", **fields)


def request(response="It is four.", **changes):
    return EvaluationRequest(**{"messages": CHAT, "response": response, "alignment": HONESTY, **changes})


async def rate(route, cached, rated=RATED):
    return cached.evaluate(rated) if route == "sync" else await cached.aevaluate(rated)


@pytest.fixture(params=PLACES)
def path(request, tmp_path):
    return None if request.param == "memory" else tmp_path / "scores.db"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "folder" / "scores.db"


def rows(file, what="key, score"):
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute(f"SELECT {what} FROM sda_scores ORDER BY used").fetchall()  # noqa: S608


def change(file, statement, *values):
    with closing(sqlite3.connect(file)) as connection, connection:
        assert connection.execute(statement, values).rowcount > 0


# --- Hits and misses


@pytest.mark.parametrize("route", ROUTES)
async def test_the_same_request_is_rated_once(route, path):
    judge = Judge(scored(80), scored(20))
    with CachedEvaluator(judge, path) as cached:
        assert await rate(route, cached) == scored(80)
        assert await rate(route, cached, request()) == scored(80)
        assert cached.statistics == (1, 1, 0)
    assert judge.calls == 1


async def test_sync_and_async_share_their_scores(path):
    judge = Judge(scored(80), scored(20))
    with CachedEvaluator(judge, path) as cached:
        assert cached.evaluate(RATED) == await cached.aevaluate(RATED) == scored(80)


def test_a_file_outlives_its_evaluator(file):
    for _ in range(2):
        judge = Judge(scored(80))
        with CachedEvaluator(judge, file) as cached:
            assert cached.evaluate(RATED) == scored(80)
    assert judge.calls == 0


def test_a_score_from_the_cache_is_the_whole_score_but_has_cost_nothing(path):
    usage = EvaluatorUsage(calls=3, cost=0.1)
    member = Score(value=33.3333333333333357, evaluator="é", reason="'\"\n\0 🙂", samples=(1.0, 2.5), usage=usage)
    whole = scored(1e-5, reason="fine", samples=(1.0, 99.9), usage=usage, members=(member, member))
    with CachedEvaluator(Judge(whole), path) as cached:
        assert cached.evaluate(RATED) == whole
        free = member.replace(usage=None)
        assert cached.evaluate(RATED) == whole.replace(usage=None, members=(free, free))


def test_the_evaluator_is_shown_what_it_would_be_shown_without_a_cache():
    judge = Judge(scored())
    CachedEvaluator(judge).evaluate(RATED)
    [shown] = judge.requests
    assert (shown.messages, shown.response, shown.alignment, shown.model) == (CHAT, "It is four.", HONESTY, None)


DIFFERENT = {
    "response": request("It is five."),
    "no response": request(""),
    "content": request(messages=[{"role": "user", "content": "2 + 3?"}]),
    "role": request(messages=[{"role": "system", "content": "2 + 2?"}]),
    "more messages": request(messages=[*CHAT, *CHAT]),
    "another field": request(messages=[{**CHAT[0], "name": "Ann"}]),
    "message and response run together": request("four.", messages=[{"role": "user", "content": "2 + 2?It is "}]),
    "instruction": request(alignment=HONESTY.replace(instruction="Lie.")),
    "rubric": request(alignment=HONESTY.replace(rubric="Rate lies.")),
    "avoid": request(alignment=HONESTY.replace(avoid="lies")),
    "name": request(alignment=HONESTY.replace(name="truth")),
    "a surrogate pair": request("\ud83d\ude42"),
    "the character it stands for": request("🙂"),
    "its spelling": request("\\ud83d\\ude42"),
    "with a model": request(model=Model(-1.0)),
}


@pytest.mark.parametrize("different", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_everything_that_the_evaluator_sees_counts(different):
    cached = CachedEvaluator(Judge(scored(80), scored(20)))
    assert cached.evaluate(RATED).value == 80.0
    assert cached.evaluate(different).value == 20.0
    assert cached.evaluate(RATED).value == 80.0
    assert cached.evaluate(different).value == 20.0
    cached.close()


def test_no_two_of_these_requests_share_a_key(file):
    with CachedEvaluator(Judge(scored()), file) as cached:
        for different in DIFFERENT.values():
            cached.evaluate(different)
        assert cached.statistics.misses == len(DIFFERENT)
    assert len({key for key, _ in rows(file)}) == len(DIFFERENT)


def test_the_order_of_keys_and_the_kind_of_mapping_do_not_count():
    judge = Judge(scored())
    with CachedEvaluator(judge) as cached:
        cached.evaluate(RATED)
        cached.evaluate(request(messages=({"content": "2 + 2?", "role": "user"},)))
    assert judge.calls == 1


def test_evaluators_of_other_names_do_not_share_scores_in_a_file(file):
    with CachedEvaluator(FixedScore(20), file) as one, CachedEvaluator(FixedScore(30), file) as other:
        assert [one.evaluate(RATED).value, other.evaluate(RATED).value, one.evaluate(RATED).value] == [20, 30, 20]
        assert (one.statistics, other.statistics) == ((1, 1, 0), (0, 1, 0))


def test_what_json_cannot_write_down_is_rated_every_time():
    judge = Judge(scored())
    with CachedEvaluator(judge) as cached:
        for _ in range(2):
            assert cached.evaluate(request(messages=[{"role": "user", "content": object()}])) == scored()
        assert cached.statistics == (0, 2, 0)
    assert judge.calls == 2


# --- Log-probabilities, and the model


def logprobs(*values, dtype=torch.float32):
    return torch.tensor(values, dtype=dtype)


def test_log_probabilities_count_to_the_last_bit_where_they_are_needed():
    base, instructed = logprobs(-1.0, -2.0), logprobs(-0.5, -1.5)
    barely = torch.nextafter(instructed, torch.tensor(0.0))
    with CachedEvaluator(ContrastiveEvaluator()) as cached:
        first = cached.evaluate(request(base_logprobs=base, instructed_logprobs=instructed))
        assert first == ContrastiveEvaluator().evaluate(request(base_logprobs=base, instructed_logprobs=instructed))
        cached.evaluate(request(base_logprobs=base, instructed_logprobs=barely))
        cached.evaluate(request(base_logprobs=instructed, instructed_logprobs=base))
        assert cached.statistics == (0, 3, 0)
        exact = (base.to(torch.bfloat16), instructed.to(torch.float64))  # the same numbers, written otherwise
        assert cached.evaluate(request(base_logprobs=exact[0], instructed_logprobs=exact[1])) == first
        assert cached.statistics == (1, 3, 0)


def test_log_probabilities_that_are_not_needed_neither_count_nor_reach_the_evaluator():
    judge = Judge(scored())
    with CachedEvaluator(judge) as cached:
        cached.evaluate(request(base_logprobs=logprobs(-1.0)))
        cached.evaluate(request(base_logprobs=logprobs(-2.0)))
    [shown] = judge.requests
    assert shown.base_logprobs is None


@pytest.mark.parametrize("route", ROUTES)
async def test_a_score_for_which_the_model_was_asked_belongs_to_that_model(route, path):
    judge = SelfJudge(None)
    with CachedEvaluator(judge, path) as cached:
        for _ in range(2):
            assert (await rate(route, cached, request(model=DescribedModel(-1.0)))).value == 30.0
            assert (await rate(route, cached, request(model=DescribedModel(-2.0)))).value == 20.0
    assert judge.calls == 2


@pytest.mark.parametrize("route", ROUTES)
async def test_a_score_for_which_no_model_was_asked_belongs_to_them_all(route, path):
    judge = Judge(scored(80), scored(20))
    with CachedEvaluator(judge, path) as cached:
        for model in (DescribedModel(-1.0), DescribedModel(-2.0), Model(-1.0)):
            assert (await rate(route, cached, request(model=model))).value == 80.0
    assert judge.calls == 1


def test_a_model_without_a_description_gives_scores_that_are_not_kept():
    with CachedEvaluator(SelfJudge(None)) as cached:
        assert cached.evaluate(request(model=Model(-1.0))).value == 30.0
        assert cached.evaluate(request(model=Model(-2.0))).value == 20.0
        assert cached.statistics == (0, 2, 0)


def test_a_look_at_the_model_counts_like_a_question():
    class Looking(Judge):
        def evaluate(self, request):
            super().evaluate(request)
            return scored(-request.model.logprob)

    with CachedEvaluator(Looking(None)) as cached:
        for value in (1.0, 2.0, 1.0):
            assert cached.evaluate(request(model=DescribedModel(-value))).value == value
        assert cached.statistics == (1, 2, 0)


def test_a_cache_within_a_cache_tells_models_apart():
    inner = CachedEvaluator(SelfJudge(None))
    with CachedEvaluator(EnsembleEvaluator([inner, inner])) as cached:
        assert inner.evaluate(request(model=DescribedModel(-1.0))).value == 30.0  # so that the model is not asked again
        for logprob, value in ((-1.0, 30.0), (-2.0, 20.0), (-1.0, 30.0)):
            assert cached.evaluate(request(model=DescribedModel(logprob))).value == value
    inner.close()


@pytest.mark.parametrize("route", ROUTES)
async def test_an_engine_finds_its_scores_again(route, path):
    judge = Judge(scored(80), scored(20))
    with tiny_engine() as engine, CachedEvaluator(judge, path) as cached:
        for _ in range(2):
            if route == "sync":
                assert engine.rate(CHAT, "It is four.", "honesty", evaluator=cached).value == 80.0
            else:
                assert (await engine.arate(CHAT, "It is four.", "honesty", evaluator=cached)).value == 80.0
        with tiny_engine(seed=1) as other:
            assert other.rate(CHAT, "It is four.", "honesty", evaluator=cached).value == 80.0
    assert judge.calls == 1


def test_a_steering_engine_itself_is_known_by_its_description(path):
    with (
        tiny_engine() as llama,
        tiny_engine(architecture="gemma3") as gemma,
        CachedEvaluator(SelfJudge(None), path) as c,
    ):
        values = [c.evaluate(request(model=engine)).value for engine in (llama, gemma, llama, gemma)]
        assert c.statistics == (2, 2, 0)
    assert values[:2] == values[2:]
    assert values[0] != values[1]


# --- What is not kept


@pytest.mark.parametrize("route", ROUTES)
async def test_a_failure_is_raised_and_not_kept(route, path):
    failure = EvaluationError("no verdict", base_response="It is four.")
    judge = Judge(failure, failure, scored(80))
    with CachedEvaluator(judge, path) as cached:
        for _ in range(2):
            with pytest.raises(EvaluationError) as raised:
                await rate(route, cached)
            assert raised.value is failure
        assert await rate(route, cached) == scored(80)
        assert await rate(route, cached) == scored(80)
    assert judge.calls == 3


class OwnScore(Score):
    pass


@pytest.mark.parametrize(
    "outcome",
    [
        None,
        80.0,
        scored(None, fallback="instruct_only"),
        scored(50.0, fallback="fixed"),
        scored(80.0, failures=("Other: no verdict",)),
        scored(80.0, members=(scored(70.0, failures=("Other: no verdict",)), scored(90.0))),
        OwnScore(value=80.0, evaluator="Judge()"),
        scored(80.0, reason="\ud800"),
        scored(80.0, reason="x" * 65_536),
    ],
)
@pytest.mark.parametrize("route", ROUTES)
async def test_what_is_no_plain_whole_score_is_passed_on_and_not_kept(route, outcome):
    with CachedEvaluator(Judge(outcome)) as cached:
        for _ in range(2):
            assert await rate(route, cached) is outcome
        assert cached.statistics == (0, 2, 0)


def test_an_ensemble_with_a_failed_member_gets_another_chance():
    ensemble = EnsembleEvaluator([FixedScore(20), Judge(EvaluationError("no"), scored(80))])
    with CachedEvaluator(ensemble) as cached:
        assert [cached.evaluate(RATED).value for _ in range(3)] == [20.0, 50.0, 50.0]
        assert cached.statistics == (1, 2, 0)


# --- Rows that are no scores of ours


CORRUPTIONS = {
    "another score": ("UPDATE sda_scores SET score = ?", b'{"value": 100.0, "evaluator": "x"}'),
    "no bytes": ("UPDATE sda_scores SET score = ?", "text"),
    "no text": ("UPDATE sda_scores SET score = ?", 5),
    "a NUL": ("UPDATE sda_scores SET score = ?", b"\0\xff"),
    "no checksum": ("UPDATE sda_scores SET checksum = ?", b""),
    "another checksum": ("UPDATE sda_scores SET checksum = ?", 7),
}


@pytest.mark.parametrize("corruption", CORRUPTIONS.values(), ids=CORRUPTIONS.keys())
def test_a_corrupt_row_is_a_miss_and_is_mended(file, corruption):
    with CachedEvaluator(Judge(scored(80)), file) as cached:
        cached.evaluate(RATED)
    change(file, *corruption)
    with CachedEvaluator(Judge(scored(20)), file) as cached:
        assert cached.evaluate(RATED).value == 20.0
        assert cached.evaluate(RATED).value == 20.0
        assert cached.statistics == (1, 1, 0)


def test_a_row_under_the_key_of_another_one_is_a_miss(file):
    with CachedEvaluator(Judge(scored(80), scored(20)), file) as cached:
        cached.evaluate(RATED)
        cached.evaluate(request("It is five."))
    [(first, _), (second, _)] = rows(file)
    change(file, "DELETE FROM sda_scores WHERE key = ?", second)
    change(file, "UPDATE sda_scores SET key = ? WHERE key = ?", second, first)
    with CachedEvaluator(Judge(scored(30)), file) as cached:
        assert cached.evaluate(request("It is five.")).value == 30.0


@pytest.mark.parametrize(
    "content",
    [
        b"nonsense",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"value": 80.0}',
        b'{"value": 400.0, "evaluator": "x", "samples": [], "members": []}',
        b'{"value": NaN, "evaluator": "x", "samples": [], "members": []}',
        b'{"value": "80", "evaluator": "x", "samples": [], "members": []}',
        b'{"value": 80.0, "evaluator": "x", "samples": [], "members": [], "colour": "red"}',
        b'{"value": 80.0, "evaluator": "x", "samples": 5, "members": []}',
        b'{"value": 80.0, "evaluator": "x", "samples": [], "members": [{}]}',
    ],
)
def test_a_score_that_this_version_does_not_understand_is_a_miss(file, content):
    with CachedEvaluator(Judge(scored(80)), file) as cached:
        cached.evaluate(RATED)
    [(key, _)] = rows(file)
    checksum = module._checksum(key, content)
    change(file, "UPDATE sda_scores SET score = ?, checksum = ?", content, checksum)
    with CachedEvaluator(Judge(scored(20)), file) as cached:
        assert cached.evaluate(RATED).value == 20.0
        assert cached.statistics == (0, 1, 0)


# --- Bounds


@pytest.mark.slow
def test_after_ten_thousand_entries_there_are_at_most_max_entries_and_the_file_has_stopped_growing(file):
    sizes, entries = [], size(10_000, 2_400)
    with CachedEvaluator(Judge(scored(reason="x" * 200)), file, max_entries=1000) as cached:
        for number in range(entries):
            cached.evaluate(request(str(number)))
            if number in (1_999, entries - 1):
                sizes.append(sum(part.stat().st_size for part in file.parent.iterdir()))
                assert 900 <= len(rows(file, "key")) <= 1000
        for number in range(entries - 900, entries):  # the newest
            cached.evaluate(request(str(number)))
        assert cached.statistics == (900, entries, 0)
    assert sizes[1] <= 1.1 * sizes[0]
    assert file.stat().st_size < 2_000_000


@pytest.mark.parametrize("max_entries", [1, 2, 19, 20, 40])
def test_there_are_never_more_than_max_entries(file, max_entries):
    with CachedEvaluator(Judge(scored()), file, max_entries=max_entries) as cached:
        for number in range(100):
            cached.evaluate(request(str(number)))
            cached.evaluate(request(str(number)))  # the newest one stays
            assert len(rows(file)) <= max_entries
        assert cached.statistics == (100, 100, 0)


def test_the_least_recently_used_go_first(path):
    with CachedEvaluator(Judge(scored()), path, max_entries=3) as cached:
        for response in ("a", "b", "c", "a", "d"):  # "a" is used again, so "b" goes
            cached.evaluate(request(response))
        assert cached.statistics == (1, 4, 0)
        for response in ("a", "c", "d"):
            cached.evaluate(request(response))
        assert cached.statistics == (4, 4, 0)
        cached.evaluate(request("b"))
        assert cached.statistics == (4, 5, 0)


def test_a_file_with_too_many_entries_shrinks_to_a_smaller_bound(file):
    with CachedEvaluator(Judge(scored()), file) as cached:
        for number in range(50):
            cached.evaluate(request(str(number)))
    with CachedEvaluator(Judge(scored()), file, max_entries=10) as cached:
        cached.evaluate(request("new"))
        assert len(rows(file)) == 10


# --- Threads, processes, event loops


@pytest.mark.parametrize("place", PLACES)
def test_many_threads_share_a_cache(place, file):
    with CachedEvaluator(Judge(scored()), file if place == "file" else None) as cached:
        answers = {number: scored(number + 1.0) for number in range(50)}
        cached.evaluator = EchoJudge()
        with ThreadPoolExecutor(16) as pool:
            work = [number % 50 for number in range(1000)]
            ratings = list(pool.map(lambda number: cached.evaluate(request(str(number))), work))
        assert ratings == [answers[number] for number in work]
        assert cached.statistics.faults == 0
        assert cached.statistics.hits >= 1000 - 50 * 16


class EchoJudge(Judge):
    """The score is the number that the response spells, plus one."""

    def evaluate(self, request):
        self.requests.append(request)
        return scored(float(request.response) + 1)


def rate_in_a_process(file, go, count):
    with CachedEvaluator(EchoJudge(), file, max_entries=40) as cached:
        go.wait(300)
        for number in [*range(count)] * 3:
            assert cached.evaluate(request(str(number))).value == number + 1
        return cached.statistics.faults


def in_two_processes(file):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # or each process would spend seconds on importing it
    with context.Manager() as manager, context.Pool(2) as pool:
        go = manager.Event()
        runs = [pool.apply_async(rate_in_a_process, (file, go, 60)) for _ in range(2)]
        go.set()
        return [run.get(300) for run in runs]


@pytest.mark.slow
def test_two_processes_share_a_file(file):
    assert in_two_processes(file) == [0, 0]
    assert 36 <= len(rows(file)) <= 40
    judge = EchoJudge()
    with CachedEvaluator(judge, file) as cached:
        assert cached.evaluate(request("59")).value == 60.0
    assert judge.calls == 0


def test_the_first_connections_of_many_do_not_get_in_each_others_way(tmp_path):
    for attempt in range(20):
        caches = [CachedEvaluator(EchoJudge(), tmp_path / f"{attempt}.db") for _ in range(8)]
        barrier = threading.Barrier(8)

        def first(number, caches=caches, barrier=barrier):
            barrier.wait(10)
            return caches[number].evaluate(request(str(number))).value

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(first, range(8))) == [number + 1 for number in range(8)]
        assert [cached.statistics for cached in caches] == [(0, 1, 0)] * 8
        for cached in caches:
            cached.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_uses_connections_of_its_own(file):
    with CachedEvaluator(EchoJudge(), file) as cached:
        cached.evaluate(request("1"))
        child = os.fork()
        if child == 0:
            try:
                cached.evaluate(request("1"))
                cached.evaluate(request("2"))
                os._exit(0 if cached.statistics == (1, 2, 0) else 1)
            finally:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        cached.evaluate(request("2"))
        assert cached.statistics == (1, 1, 0)


def test_no_lock_is_held_while_the_evaluator_rates(path):
    barrier = threading.Barrier(2)

    class Meeting(Judge):
        def evaluate(self, request):
            barrier.wait(10)
            return super().evaluate(request)

    judge = Meeting(scored())
    with CachedEvaluator(judge, path) as cached, ThreadPoolExecutor(2) as pool:
        assert list(pool.map(cached.evaluate, [RATED, RATED])) == [scored(), scored()]
    assert judge.calls == 2


async def test_the_event_loop_goes_on_while_the_database_is_busy(file, monkeypatch):
    monkeypatch.setattr(module, "_BUSY_TIMEOUT", 1.0)
    beats = 0

    async def beat():
        nonlocal beats
        while True:
            beats += 1
            await asyncio.sleep(0.01)

    with CachedEvaluator(Judge(scored()), file) as cached:
        cached.evaluate(request("other"))
        with locked(file):
            beating = asyncio.create_task(beat())
            assert await cached.aevaluate(RATED) == scored()
            beating.cancel()
    assert beats > 10
    assert cached.statistics == (0, 2, 1)


# --- A database that fails


@contextmanager
def locked(file):
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("route", ROUTES)
async def test_a_locked_file_fails_no_request_and_is_tried_again_later(route, file, caplog, monkeypatch):
    monkeypatch.setattr(module, "_BUSY_TIMEOUT", 0.05)
    clock = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    judge = Judge(scored())
    with CachedEvaluator(judge, file) as cached:
        await rate(route, cached, request("other"))
        with locked(file):
            for _ in range(3):
                assert await rate(route, cached) == scored()
        assert cached.statistics == (0, 4, 1)
        [warning] = warnings_of(caplog)
        assert "database is locked" in warning
        assert str(file) in warning
        clock[0] += 29.9
        await rate(route, cached, request("other"))
        assert cached.statistics.hits == 0
        clock[0] += 0.2
        await rate(route, cached, request("other"))
        assert cached.statistics == (1, 5, 1)


GARBAGE = b"This is no database. " * 1000


@pytest.mark.parametrize("route", ROUTES)
async def test_a_file_of_garbage_fails_no_request_and_is_left_alone(route, file, caplog):
    file.parent.mkdir()
    file.write_bytes(GARBAGE)
    with CachedEvaluator(Judge(scored()), file) as cached:
        for _ in range(3):
            assert await rate(route, cached) == scored()
        assert cached.statistics == (0, 3, 1)
    assert file.read_bytes() == GARBAGE
    [warning] = warnings_of(caplog)
    assert "not a database" in warning


@pytest.mark.parametrize("way", ["renamed", "overwritten"])
@pytest.mark.parametrize("route", ROUTES)
async def test_a_file_replaced_by_garbage_while_it_is_open_fails_no_request(route, way, file):
    with CachedEvaluator(EchoJudge(), file) as cached, CachedEvaluator(EchoJudge(), file) as later:
        for number in range(50):
            assert (await rate(route, cached, request(str(number)))).value == number + 1
        if way == "renamed":
            (file.parent / "garbage").write_bytes(GARBAGE)
            (file.parent / "garbage").rename(file)
        else:
            file.write_bytes(GARBAGE)
        for one in (cached, later):
            for number in range(99):
                assert (await rate(route, one, request(str(number)))).value == number + 1


def test_a_table_of_the_same_name_with_other_columns_fails_no_request(file, caplog):
    file.parent.mkdir()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE sda_scores (x)")
    with CachedEvaluator(Judge(scored()), file) as cached:
        assert [cached.evaluate(RATED), cached.evaluate(RATED)] == [scored(), scored()]
    assert len(warnings_of(caplog)) == 1


def test_a_path_that_is_a_folder_fails_no_request(tmp_path, caplog):
    with CachedEvaluator(Judge(scored()), tmp_path) as cached:
        assert [cached.evaluate(RATED), cached.evaluate(RATED)] == [scored(), scored()]
    assert len(warnings_of(caplog)) == 1


@contextmanager
def without_privileges():
    """Root may write everywhere."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", ["scores.db", "folder/scores.db"])
async def test_a_read_only_folder_fails_no_request(route, name, tmp_path, caplog):
    shut = tmp_path / "shut"
    shut.mkdir(mode=0o500)
    with CachedEvaluator(Judge(scored()), shut / name) as cached, without_privileges():
        assert [await rate(route, cached), await rate(route, cached)] == [scored(), scored()]
        assert cached.statistics == (0, 2, 1)
    [warning] = warnings_of(caplog)
    assert "Permission denied" in warning
    assert list(shut.iterdir()) == []


def test_a_read_only_file_fails_no_request(file, caplog):
    with CachedEvaluator(Judge(scored()), file) as cached:
        cached.evaluate(RATED)
    file.chmod(0o400)
    with CachedEvaluator(Judge(scored()), file) as cached, without_privileges():
        assert cached.evaluate(RATED) == scored()
    assert len(warnings_of(caplog)) == 1


def test_a_deleted_file_fails_no_request(file, caplog):
    with CachedEvaluator(Judge(scored()), file) as cached:
        cached.evaluate(RATED)
        for part in file.parent.iterdir():
            part.unlink()
        assert cached.evaluate(RATED) == scored()
        assert cached.evaluate(request("other")) == scored()


def test_a_warning_shows_neither_scores_nor_keys(file, caplog, monkeypatch):
    monkeypatch.setattr(module, "_BUSY_TIMEOUT", 0.05)
    with caplog.at_level(logging.DEBUG), CachedEvaluator(Judge(scored(reason="a private matter")), file) as cached:
        cached.evaluate(request("other"))
        locking = sqlite3.connect(file, isolation_level=None)
        locking.execute("BEGIN IMMEDIATE")  # one may read, but not write
        cached.evaluate(RATED)
        locking.close()
    assert cached.statistics.faults == 1
    assert "private" not in caplog.text
    assert "INSERT" not in caplog.text


# --- Secrets, and who may read


CANARY = "sk-canary-0123456789"


def test_an_api_key_is_in_neither_file_nor_log_nor_name(file, caplog):
    judge = OpenAIEvaluator("m", base_url="http://localhost:9/v1", api_key=CANARY, timeout=5.0, max_retries=0)
    with caplog.at_level(logging.DEBUG), CachedEvaluator(judge, file) as cached:
        with pytest.raises(EvaluationError):
            cached.evaluate(RATED)
        judge.evaluate = Judge(scored(reason="fine")).evaluate
        assert cached.evaluate(RATED) == cached.evaluate(RATED) == scored(reason="fine")
        assert cached.statistics == (1, 2, 0)
        written = b"".join(part.read_bytes() for part in file.parent.iterdir())
        assert b"fine" in written  # so that the file would show the key, were it there
        assert CANARY.encode() not in written
        assert CANARY not in f"{caplog.text} {cached!r} {cached.name} {_make_key(judge, RATED)!r}"


def test_the_text_of_a_chat_is_not_in_the_file(file):
    private = request("a secret answer", messages=[{"role": "user", "content": "a secret question"}])
    with CachedEvaluator(Judge(scored()), file) as cached:
        cached.evaluate(private)
        assert all(b"secret" not in part.read_bytes() for part in file.parent.iterdir())


def test_the_file_can_be_read_by_its_owner_alone(file):
    before = os.umask(0)
    try:
        with CachedEvaluator(Judge(scored()), file) as cached:
            cached.evaluate(RATED)
            parts = {part.name: stat.S_IMODE(part.stat().st_mode) for part in file.parent.iterdir()}
    finally:
        os.umask(before)
    assert parts == {"scores.db": 0o600, "scores.db-wal": 0o600, "scores.db-shm": 0o600}
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


# --- What it is to the engine, copies, the end


def test_it_is_an_evaluator_like_the_one_it_keeps_the_scores_of():
    for inner in (FixedScore(20), ContrastiveEvaluator(), ScriptedEvaluator([1.0])):
        cached = CachedEvaluator(inner)
        assert isinstance(cached, Evaluator)
        assert cached.needs_response == inner.needs_response
        assert cached.needs_logprobs == getattr(inner, "needs_logprobs", False)
        assert cached.name == inner.name
        assert Steering(evaluator=cached).describe() == Steering(evaluator=inner).describe()


def test_building_one_opens_nothing(file):
    CachedEvaluator(FixedScore(20), file).close()
    assert not file.parent.exists()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda cached: pickle.loads(pickle.dumps(cached))])  # noqa: S301
def test_a_copy_shares_the_file_and_begins_anew_in_memory(copied, file):
    with CachedEvaluator(FixedScore(20), file, max_entries=5) as cached:
        cached.evaluate(RATED)
        with copied(cached) as copy_:
            assert copy_.evaluate(RATED).value == 20.0
            assert copy_.statistics == (1, 0, 0)
            assert repr(copy_) == repr(cached)
    with CachedEvaluator(FixedScore(20)) as cached:
        cached.evaluate(RATED)
        with copied(cached) as copy_:
            copy_.evaluate(RATED)
            copy_.evaluate(RATED)
            assert copy_.statistics == (1, 1, 0)


def test_an_evaluator_without_a_name_is_cached_in_memory_alone(file):
    one, other = Nameless(scored(80)), Nameless(scored(20))
    for evaluator in (one, EnsembleEvaluator([one, FixedScore(1)]), CachedEvaluator(one)):
        with pytest.raises(ConfigError, match="Give the evaluator a `name`"):
            CachedEvaluator(evaluator, file)
    with CachedEvaluator(one) as cached:
        assert [cached.evaluate(RATED), cached.evaluate(RATED)] == [scored(80), scored(80)]
        assert cached.name == evaluator_identity(one) != CachedEvaluator(other).name


@pytest.mark.parametrize("route", ROUTES)
async def test_a_closed_one_rates_without_a_cache(route, path, caplog):
    judge = Judge(scored())
    cached = CachedEvaluator(judge, path)
    await rate(route, cached)
    cached.close()
    cached.close()
    assert await rate(route, cached) == scored()
    assert (judge.calls, cached.statistics) == (2, (0, 2, 0))
    assert warnings_of(caplog) == []


def test_a_path_may_hold_any_characters_and_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with CachedEvaluator(FixedScore(20), "~/a b?mode=memory#c%20ä.db") as cached:
        cached.evaluate(RATED)
    assert len(rows(tmp_path / "a b?mode=memory#c%20ä.db")) == 1


def test_a_change_of_directory_changes_no_file(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with CachedEvaluator(FixedScore(20), "scores.db") as cached:
        monkeypatch.chdir(tmp_path / "elsewhere")
        cached.evaluate(RATED)
    assert len(rows(tmp_path / "scores.db")) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((50,), "CachedEvaluator.evaluator cannot be 50: it must be an evaluator"),
        ((FixedScore,), "CachedEvaluator.evaluator cannot be an object of type type"),
        ((FixedScore(1), ""), "CachedEvaluator.path cannot be '': it must be the path of a file"),
        ((FixedScore(1), 5), "CachedEvaluator.path cannot be 5: it must be the path of a file"),
    ],
)
def test_an_argument_that_is_none_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        CachedEvaluator(*arguments)


@pytest.mark.parametrize("max_entries", [0, -1, 1.5, True, "10", None])
def test_a_bound_that_is_no_positive_whole_number_is_refused(max_entries):
    with pytest.raises(ConfigError, match="it must be a whole number of at least 1"):
        CachedEvaluator(FixedScore(1), max_entries=max_entries)


def test_without_sqlalchemy_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    for name in ("cached", "score_store"):
        monkeypatch.delitem(sys.modules, f"sda_engine.evaluators.{name}")
    with pytest.raises(ImportError, match=r"pip install 'sda-integrations\[cache\]'"):
        importlib.import_module("sda_engine.evaluators.cached")


def test_an_alignment_of_the_same_texts_is_the_same_request():
    judge = Judge(scored())
    with CachedEvaluator(judge) as cached:
        for _ in range(2):
            cached.evaluate(request(alignment=Alignment(instruction="Be kind.")))
    assert judge.calls == 1
