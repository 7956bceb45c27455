"""Requirement 25: a canary key goes to the judge's server and shows nowhere else."""

import asyncio
import copy
import json
import logging
import pickle
import socket
import sys
import traceback
from collections.abc import Callable, Iterator

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.load import dumpd, dumps
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import ChatMessage
from pydantic import SecretStr
from werkzeug import Response

from sda_engine import Alignment, Sampling, Steering, SteeringEngine
from sda_engine.errors import ConfigError, EvaluationError, SDAError
from sda_engine.evaluators import OpenAIEvaluator
from sda_integrations.langchain import ChatSDA
from sda_integrations.llama_index import SDALLM
from tests.conftest import user
from tests.sda_engine.evaluators.judges import CANARY, RATED, Judge, completion, fault

QUESTION = user("what is in the library?")
KIND = Alignment(instruction="be kind")
SHORT = Sampling(max_new_tokens=6, seed=1)
ECHOES = {
    "rejected key": fault(401, f"Incorrect API key provided: {CANARY}"),
    "server error": fault(500, f"{CANARY} crashed"),
    "web page": Response(f"<html>{CANARY}</html>", mimetype="text/html"),
    "bad request": fault(400, f"temperature and response_format are wrong, and so is {CANARY}"),
    "prose": completion(f"your key is {CANARY}"),
    "wrong key of the verdict": completion(json.dumps({"reason": "fine", CANARY: 85})),
    "refusal": completion(None, refusal=f"your key is {CANARY}"),
    "bad compression": Response(CANARY.encode(), headers={"Content-Encoding": "gzip"}),
}
FAULTS = {
    "rejected key": fault(401, "Incorrect API key"),
    "server error": fault(500),
    "bad request": fault(400),
    "redirect": Response("", 307, {"Location": "http://127.0.0.1:9/v1"}),
    "web page": Response("<html>", mimetype="text/html"),
    "bad compression": Response(b"no gzip", headers={"Content-Encoding": "gzip"}),
    "oversized": Response("x" * 70_000, mimetype="application/json"),
    "prose": completion("85"),
    "refusal": completion(None, refusal="I cannot rate this."),
}
Build = Callable[[Judge, pytest.MonkeyPatch], OpenAIEvaluator]

pytestmark = pytest.mark.usefixtures("clean_environment")


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """All loggers at DEBUG, those included that have a level of their own."""
    names = ["openai", "openai._base_client", "httpx", "httpx2", "httpcore", "httpcore2", "sda_engine", "asyncio"]
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    caplog.set_level(logging.DEBUG)
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    yield caplog
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


def by_environment(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> OpenAIEvaluator:
    """The key of OPENAI_API_KEY, sent to a server on this machine in place of OpenAI's, where TLS then fails."""
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    host, port = judge.url.split("/")[2].split(":")
    address = (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, int(port)))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [address])
    return OpenAIEvaluator("judge", max_retries=0)


FORMS: dict[str, Build] = {
    "constructor": lambda judge, _: judge.evaluator(api_key=CANARY, max_retries=0),
    "SecretStr": lambda judge, _: judge.evaluator(api_key=SecretStr(CANARY), max_retries=0),
    "environment": by_environment,
}


@pytest.fixture(params=FORMS.values(), ids=FORMS)
def evaluator(request: pytest.FixtureRequest, judge: Judge, monkeypatch: pytest.MonkeyPatch) -> OpenAIEvaluator:
    built: OpenAIEvaluator = request.param(judge, monkeypatch)
    return built


def chain(error: BaseException, *, with_locals: bool = False) -> str:
    """An exception as it may be logged: with its causes and, if asked for, the local variables of every frame."""
    texts = [*traceback.format_exception(error)]
    if with_locals:
        texts += traceback.TracebackException.from_exception(error, capture_locals=True).format()
    link: BaseException | None = error
    while link is not None:
        texts += [repr(link), str(link), repr(link.args)]
        texts += [repr(vars(link))] if with_locals else []
        link = link.__cause__ or link.__context__
    return "".join(texts)


# The evaluator


def test_no_text_of_an_evaluator_and_no_pickle_of_it_shows_the_key(evaluator: OpenAIEvaluator) -> None:
    steering = Steering(evaluator=evaluator)
    for each in (evaluator, copy.copy(evaluator), copy.deepcopy(evaluator)):
        shown = [repr(each), str(each), f"{each}", each.name, repr(vars(each)), repr(dir(each))]
        assert CANARY not in "".join(shown)
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            assert CANARY.encode() not in pickle.dumps(each, protocol)
    shown = [repr(steering), str(steering), json.dumps(steering.describe()), repr(steering.model_copy())]
    assert CANARY not in "".join(shown)
    assert CANARY.encode() not in pickle.dumps(steering)


def test_no_class_attribute_and_no_nested_attribute_shows_the_key_in_its_repr(evaluator: OpenAIEvaluator) -> None:
    waiting: list[object] = [evaluator]
    seen: set[int] = set()
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or not type(thing).__module__.startswith("sda_engine"):
            continue
        seen.add(id(thing))
        assert CANARY not in repr(thing)
        assert CANARY not in repr(vars(thing))
        waiting += vars(thing).values()
    assert len(seen) > 1  # the server behind the evaluator at the least


def test_a_good_rating_logs_and_traces_no_key(
    engine: SteeringEngine, judge: Judge, everything_logged: pytest.LogCaptureFixture
) -> None:
    judge.script = [completion(json.dumps({"reason": f"the key is {CANARY}", "score": 20}))]
    steering = Steering(evaluator=judge.evaluator(api_key=CANARY))
    done = engine.generate(QUESTION, KIND, steering=steering, sampling=SHORT)
    assert f"Bearer {CANARY}" in judge.headers[0]  # it was sent, so it could have shown
    assert done.score is not None
    assert done.score.value == 20.0
    shown = [repr(done), done.trace.to_text(), done.trace.to_html(), repr(done.score), done.score.model_dump_json()]
    assert CANARY not in "".join(shown)
    assert "openai" in {record.name.split(".")[0] for record in everything_logged.records}
    assert CANARY not in everything_logged.text
    assert CANARY not in repr([vars(record) for record in everything_logged.records])


def failures(engine: SteeringEngine, evaluator: OpenAIEvaluator) -> list[EvaluationError]:
    """The failure of one judge as it comes by each route."""
    steering = Steering(evaluator=evaluator)
    routes: list[Callable[[], object]] = [
        lambda: evaluator.evaluate(RATED),
        lambda: asyncio.run(evaluator.aevaluate(RATED)),
        lambda: engine.generate(QUESTION, KIND, steering=steering, sampling=SHORT),
    ]
    errors = []
    for route in routes:
        with pytest.raises(EvaluationError) as failure:
            route()
        errors.append(failure.value)
    return errors


@pytest.mark.parametrize("reply", FAULTS.values(), ids=FAULTS)
def test_no_failure_shows_the_key_in_its_chain_its_locals_its_attributes_or_the_log(
    engine: SteeringEngine, judge: Judge, everything_logged: pytest.LogCaptureFixture, reply: Response
) -> None:
    judge.script = [reply]
    evaluator = judge.evaluator(api_key=CANARY, max_retries=0)
    assert [error for error in failures(engine, evaluator) if CANARY in chain(error, with_locals=True)] == []
    assert f"Bearer {CANARY}" in judge.headers[0]
    assert CANARY not in everything_logged.text


@pytest.mark.parametrize("reply", ECHOES.values(), ids=ECHOES)
def test_no_failure_shows_a_key_that_the_server_echoes_in_its_chain_or_the_log(
    engine: SteeringEngine, judge: Judge, everything_logged: pytest.LogCaptureFixture, reply: Response
) -> None:
    judge.script = [reply]
    evaluator = judge.evaluator(api_key=CANARY, max_retries=0)
    assert [error for error in failures(engine, evaluator) if CANARY in chain(error)] == []
    assert CANARY not in everything_logged.text
    steering = Steering(evaluator=evaluator, on_evaluator_error="fixed")
    done = engine.generate(QUESTION, KIND, steering=steering, sampling=SHORT)
    assert CANARY not in f"{done!r}{done.trace.to_html()}"


def test_the_key_of_the_environment_shows_in_no_failure(
    judge: Judge, monkeypatch: pytest.MonkeyPatch, everything_logged: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(EvaluationError, match="could not be reached") as failure:
        by_environment(judge, monkeypatch).evaluate(RATED)
    assert CANARY not in chain(failure.value, with_locals=True)
    assert CANARY not in everything_logged.text


def test_an_argument_that_is_wrong_shows_no_key_that_stands_beside_it() -> None:
    for wrong in ({"timeout": -1}, {"samples": 0}, {"base_url": f"http://user:{CANARY}@host/v1"}, {"model": ""}):
        with pytest.raises(ConfigError) as failure:
            OpenAIEvaluator(**{"model": "judge", "api_key": SecretStr(CANARY), **wrong})  # type: ignore[arg-type]
        assert CANARY not in "".join(traceback.format_exception(failure.value))


# The adapters


def test_chat_sda_shows_no_key_in_dumps_cache_keys_pickles_and_copies(
    engine: SteeringEngine, evaluator: OpenAIEvaluator
) -> None:
    for fields in ({"evaluator": evaluator}, {"steering": Steering(evaluator=evaluator)}):
        chat = ChatSDA(engine=engine, alignment="honesty", **fields)  # type: ignore[arg-type]
        assert evaluator.name in repr(chat)
        shown = [
            repr(chat),
            str(chat),
            chat.asdict(),
            chat.model_dump(),
            chat.model_dump(mode="json"),
            chat.model_dump_json(),
            dumps(chat),
            dumps(chat, pretty=True),
            dumpd(chat),
            chat.to_json(),
            chat._identifying_params,
            chat._get_llm_string(stop=["x"]),
            chat._get_invocation_params(),
            chat._get_ls_params(),
            repr(chat.bind(evaluator=evaluator)),
            repr(chat.with_config(tags=["x"])),
            repr(copy.copy(chat)),
            repr(chat.model_copy()),
            dumps(chat.bind(stop=["x"])),
        ]
        assert CANARY not in repr(shown)


def test_chat_sda_without_an_engine_copies_and_pickles_without_the_key(evaluator: OpenAIEvaluator) -> None:
    chat = ChatSDA(evaluator=evaluator, alignment="honesty")
    assert CANARY not in repr(copy.deepcopy(chat))
    assert CANARY.encode() not in pickle.dumps(chat)


def test_chat_sda_answers_and_caches_without_the_key(
    engine: SteeringEngine, judge: Judge, everything_logged: pytest.LogCaptureFixture
) -> None:
    cache = InMemoryCache()
    evaluator = judge.evaluator(api_key=CANARY)
    chat = ChatSDA(engine=engine, evaluator=evaluator, alignment="honesty", max_tokens=4, cache=cache)
    answer = chat.invoke("what is in the library?")
    chunks = list(chat.stream("what is in the library?"))
    asyncio.run(chat.ainvoke("what is in the library?"))
    assert judge.calls >= 2
    assert CANARY not in repr([answer, dumps(answer), chunks, cache._cache])
    assert CANARY not in everything_logged.text


def test_the_adapters_raise_errors_without_the_key(engine: SteeringEngine, judge: Judge) -> None:
    judge.script = [ECHOES["rejected key"]]
    evaluator = judge.evaluator(api_key=CANARY)
    chat = ChatSDA(engine=engine, evaluator=evaluator, alignment="honesty", max_tokens=4)
    llm = SDALLM(engine=engine, evaluator=evaluator, alignment="honesty", max_tokens=4)
    for answer in (lambda: chat.invoke("Hi"), lambda: llm.complete("Hi")):
        with pytest.raises(SDAError) as failure:
            answer()
        assert CANARY not in chain(failure.value)
    for build in (ChatSDA, SDALLM):
        with pytest.raises(ConfigError) as failure:
            build(engine=engine, evaluator=evaluator, temperature=-1)
        assert CANARY not in chain(failure.value)


class Seen(BaseEventHandler):
    """Keeps the events."""

    events: list[object]

    def handle(self, event: object, **_: object) -> None:
        self.events.append(event)


@pytest.fixture
def events() -> Iterator[list[object]]:
    """The events of LlamaIndex's instrumentation, as they come."""
    handler, root = Seen(events=[]), get_dispatcher()
    root.add_event_handler(handler)
    yield handler.events
    root.event_handlers.remove(handler)


def test_sdallm_shows_no_key_in_dumps_pickles_and_copies(evaluator: OpenAIEvaluator, engine: SteeringEngine) -> None:
    for fields in ({"evaluator": evaluator}, {"steering": Steering(evaluator=evaluator)}):
        llm = SDALLM(engine=engine, alignment="honesty", **fields)  # type: ignore[arg-type]
        assert evaluator.name in repr(llm.to_dict())
        shown = [
            repr(llm),
            str(llm),
            llm.dict(),
            llm.json(),
            llm.model_dump(),
            llm.model_dump_json(),
            llm.to_dict(),
            llm.to_json(),
            llm.metadata,
            repr(copy.copy(llm)),
            repr(copy.deepcopy(llm)),
        ]
        assert CANARY not in repr(shown)
        assert CANARY.encode() not in pickle.dumps(llm)


def test_sdallm_answers_and_tells_its_events_without_the_key(
    engine: SteeringEngine, judge: Judge, events: list[object], everything_logged: pytest.LogCaptureFixture
) -> None:
    evaluator = judge.evaluator(api_key=CANARY)
    llm = SDALLM(engine=engine, evaluator=evaluator, alignment="honesty", max_tokens=4)
    answers = [llm.complete("Hi"), llm.chat([ChatMessage(role="user", content="Hi")]), *llm.stream_complete("Hi")]
    assert judge.calls == 3
    assert events
    assert CANARY not in repr([answers, [answer.model_dump() for answer in answers]])
    assert CANARY not in repr(events)
    assert CANARY not in everything_logged.text


# What these tests could miss


def test_the_chain_of_an_error_would_show_a_key_in_a_local_variable() -> None:
    def fail(api_key: str) -> None:
        raise ValueError("no")

    try:
        fail(CANARY)
    except ValueError:
        error = sys.exception()
    assert error is not None
    assert CANARY in chain(error, with_locals=True)
    assert CANARY not in chain(error)
