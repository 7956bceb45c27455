"""A key goes to its server and shows nowhere else (requirement 25)."""

import copy
import logging
import pickle
import traceback

import pytest
from pydantic import SecretStr
from werkzeug import Response

from sda_engine import RemoteEngine
from sda_engine.errors import SDAError
from tests.conftest import user
from tests.sda_engine.remote.scripted import CANARY, DONE, chunks, fault, streamed, whole

QUESTION = user("Is the earth flat?")
LOGGERS = ("openai", "openai._base_client", "httpx2", "httpcore2", "sda_engine", "asyncio")


def everything_of(error: BaseException, *, with_locals: bool = False) -> str:
    """An exception as it may be logged: with its causes and, if asked for, the local variables of every frame."""
    texts = [*traceback.TracebackException.from_exception(error, capture_locals=with_locals).format()]
    link: BaseException | None = error
    while link is not None:
        texts += [repr(link), str(link), repr(link.args), repr(vars(link))]
        link = link.__cause__ or link.__context__
    return "".join(texts)


@pytest.fixture
def everything_logged(caplog):
    caplog.set_level(logging.DEBUG)
    before = {name: logging.getLogger(name).level for name in LOGGERS}
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.DEBUG)
    yield caplog
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


def test_a_key_is_sent_and_nothing_else_of_the_environment(server, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-meant-for-another")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer sk-meant-for-another\nX-Team: ours")
    for key in (CANARY, SecretStr(CANARY)):
        server.engine(api_key=key).generate(QUESTION)
    monkeypatch.setenv("SDA_API_KEY", CANARY)
    server.engine().generate(QUESTION)
    assert [headers["authorization"] for headers in server.headers] == [f"Bearer {CANARY}"] * 3
    assert not [name for name in server.headers[0] if name.startswith(("openai", "x-team", "x-stainless"))]


def test_no_text_of_an_engine_and_no_pickle_shows_the_key(server) -> None:
    engine = server.engine(api_key=CANARY)
    engine.generate(QUESTION)
    waiting, seen = [engine], set()
    while waiting:
        thing = waiting.pop()
        if id(thing) not in seen and type(thing).__module__.startswith("sda_engine"):
            seen.add(id(thing))
            assert CANARY not in repr(thing) + repr(getattr(thing, "__dict__", ""))
            waiting += getattr(thing, "__dict__", {}).values()
    assert len(seen) > 4
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert CANARY.encode() not in pickle.dumps(copy.deepcopy(engine), protocol)


def test_a_pickled_copy_takes_the_key_of_its_own_process_and_says_so_when_it_is_refused(server, monkeypatch) -> None:
    written = pickle.dumps(server.engine(api_key=CANARY))
    server.script = [fault(401, "no key"), whole()]
    with pytest.raises(SDAError, match="SDA_API_KEY"):
        pickle.loads(written).generate(QUESTION)  # noqa: S301
    monkeypatch.setenv("SDA_API_KEY", "another-key-0123")
    pickle.loads(written).generate(QUESTION)  # noqa: S301
    assert server.headers[1]["authorization"] == "Bearer another-key-0123"


def test_answers_are_logged_and_described_without_the_key(server, everything_logged) -> None:
    server.script = [whole(), streamed()]
    engine = server.engine(api_key=CANARY)
    done = [engine.generate(QUESTION), *list(engine.stream(QUESTION))]
    assert CANARY not in repr(done) + repr(engine.describe())
    assert "openai" in {record.name.split(".")[0] for record in everything_logged.records}
    assert CANARY not in everything_logged.text
    assert CANARY not in repr([vars(record) for record in everything_logged.records])


ECHOES = {
    "refused": fault(401, f"wrong key {CANARY}"),
    "fault": fault(500, f"{CANARY} crashed"),
    "wrong value": fault(400, f"{CANARY} is wrong", code="invalid_value"),
    "web page": Response(f"<html>{CANARY}", 502, mimetype="text/html"),
    "no JSON": Response(f"{CANARY}", mimetype="application/json"),
    "compressed": Response(CANARY.encode(), headers={"Content-Encoding": "gzip"}),
    "in a stream": streamed([*chunks()[:2], '{"error": {"message": "' + CANARY + '"}}']),
}


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
def test_no_exception_and_no_log_shows_a_key_that_the_server_echoes(server, echo, everything_logged) -> None:
    server.script = [echo]
    engine = server.engine(api_key=CANARY, max_retries=0)
    with pytest.raises(SDAError) as caught:
        list(engine.stream(QUESTION)) if "stream" in str(echo.mimetype) else engine.generate(QUESTION)
    assert CANARY not in everything_of(caught.value)
    assert CANARY not in everything_logged.text


FAULTS = {
    "refused": fault(401),
    "fault": fault(500),
    "web page": Response("<html>", mimetype="text/html"),
    "in a stream": streamed([*chunks()[:2], '{"error": {"message": "gone"}}']),
}


@pytest.mark.parametrize("reply", FAULTS.values(), ids=FAULTS)
def test_no_variable_of_a_frame_shows_the_key_either(server, reply) -> None:
    server.script = [reply]
    engine = server.engine(api_key=CANARY, max_retries=0)
    with pytest.raises(SDAError) as caught:
        list(engine.stream(QUESTION)) if "stream" in str(reply.mimetype) else engine.generate(QUESTION)
    assert CANARY not in everything_of(caught.value, with_locals=True)


def test_no_redirect_takes_key_and_prompt_elsewhere(server, http) -> None:
    reached = []
    http.expect_request("/elsewhere").respond_with_handler(lambda request: reached.append(request) or whole())
    server.script = [Response("", 307, {"Location": http.url_for("/elsewhere")})]
    with pytest.raises(SDAError, match="Redirects are not followed"):
        server.engine(api_key=CANARY).generate(QUESTION)
    assert reached == []


def test_wrong_arguments_do_not_show_the_key() -> None:
    for wrong in (
        {"model": ""},
        {"timeout": -1},
        {"base_url": f"http://user:{CANARY}@host"},
        {"api_key": f"{CANARY} "},
    ):
        with pytest.raises(SDAError) as caught:
            RemoteEngine(**{"base_url": "http://localhost:1", "model": "m", "api_key": SecretStr(CANARY), **wrong})
        assert CANARY not in str(caught.value)


def test_a_server_without_keys_is_sent_none_of_ours(server) -> None:
    assert server.engine().generate(QUESTION).text == DONE.text
    assert server.headers[0]["authorization"] == "Bearer not-needed"


def test_a_variable_with_several_keys_is_told_by_its_name(monkeypatch) -> None:
    """`sda serve` reads several from it, and the client's machine may have the same one."""
    monkeypatch.setenv("SDA_API_KEY", f"{CANARY} another-key")
    with pytest.raises(SDAError, match=r"The environment variable SDA_API_KEY .* must be one key") as refused:
        RemoteEngine("http://localhost:8000/v1", model="m")
    assert CANARY not in everything_of(refused.value)
