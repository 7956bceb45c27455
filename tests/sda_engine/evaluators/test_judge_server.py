import copy
import pickle

import pytest
from pydantic import SecretStr

from sda_engine.errors import ConfigError, EvaluationError
from sda_engine.evaluators.judge_server import JudgeServer

CANARY = "sk-canary-0123456789"
LOCAL = "http://localhost:8000/v1"


@pytest.fixture(autouse=True)
def _no_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def unpickled(server: JudgeServer) -> JudgeServer:
    copied: JudgeServer = pickle.loads(pickle.dumps(server))  # noqa: S301
    return copied


async def key_sent_by(server: JudgeServer) -> str:
    async with server.connect() as client:
        return client.default_headers["Authorization"].removeprefix("Bearer ")  # type: ignore[union-attr]


async def test_openai_itself_gets_the_key_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    assert await key_sent_by(JudgeServer()) == CANARY


async def test_a_key_that_is_given_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "from-the-environment")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer from-the-custom-headers")
    assert await key_sent_by(JudgeServer(api_key=CANARY)) == CANARY
    assert await key_sent_by(JudgeServer(api_key=SecretStr(CANARY))) == CANARY


async def test_the_environment_does_not_choose_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere.example/v1")
    async with JudgeServer(api_key=CANARY).connect() as client:
        assert str(client.base_url) == "https://api.openai.com/v1/"


async def test_another_server_never_gets_the_key_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    assert await key_sent_by(JudgeServer(LOCAL)) == "not-needed"


def test_a_missing_key_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match="set the environment variable OPENAI_API_KEY"):
        JudgeServer()


@pytest.mark.parametrize("key", ["", "  ", CANARY + "\n", "two " + CANARY, "schlüssel" + CANARY, CANARY.encode()])
def test_a_key_that_fits_no_header_is_refused_and_not_shown(key: object) -> None:
    with pytest.raises(ConfigError, match="printable ASCII") as refused:
        JudgeServer(LOCAL, key)  # type: ignore[arg-type]
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost",
        "https://api.example.com/v1/",
        "http://my_judge:8000/v1",
        "http://127.0.0.1:8000",
        "http://[::1]:8000/v1",
        "HTTP://Example.com./v1/@account",
    ],
)
async def test_a_plain_url_is_taken_by_the_client_too(url: str) -> None:
    server = JudgeServer(url)
    assert server.base_url == url.rstrip("/")
    async with server.connect() as client:
        assert str(client.base_url).rstrip("/").lower() == url.rstrip("/").lower()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8000/v1",
        "ftp://localhost/v1",
        "http://",
        "http:///v1",
        "http://localhost:0/v1",
        "http://localhost:65536/v1",
        "http://localhost:port/v1",
        "http://local host/v1",
        "http://localhost/v1\n",
        "http://a..b/v1",
        "http://999.0.0.1/v1",
        "http://[::g]/v1",
        "http://[::1%25eth0]/v1",
        "http://bücher.example/v1",
        "http://" + "a" * 64 + "/v1",
        "http://localhost/" + "a" * 2000,
        b"http://localhost/v1",
        8000,
    ],
)
def test_any_other_url_is_refused_with_the_legal_form(url: object) -> None:
    with pytest.raises(ConfigError, match=r"http\(s\)://host"):
        JudgeServer(url)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url", [f"http://user:{CANARY}@host/v1", f"http://host/v1?key={CANARY}", f"http://h/#{CANARY}"]
)
def test_a_url_that_holds_a_secret_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match="not shown") as refused:
        JudgeServer(url)
    assert CANARY not in str(refused.value)


def test_a_pickle_holds_no_key() -> None:
    for server in (JudgeServer(api_key=CANARY), JudgeServer(LOCAL, CANARY)):
        assert CANARY.encode() not in pickle.dumps(server)


async def test_an_unpickled_server_takes_openai_s_key_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = JudgeServer(api_key=CANARY)
    with pytest.raises(EvaluationError, match="was not pickled"):
        unpickled(server).connect()
    monkeypatch.setenv("OPENAI_API_KEY", "the-key-of-the-worker")
    assert await key_sent_by(unpickled(server)) == "the-key-of-the-worker"


async def test_an_unpickled_server_never_takes_the_environment_s_key_for_another_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    assert await key_sent_by(unpickled(JudgeServer(LOCAL))) == "not-needed"
    with pytest.raises(EvaluationError, match="was not pickled"):
        unpickled(JudgeServer(LOCAL, "its-own-key")).connect()


async def test_copies_keep_the_key() -> None:
    server = JudgeServer(LOCAL, CANARY)
    assert await key_sent_by(copy.copy(server)) == CANARY
    assert await key_sent_by(copy.deepcopy([server])[0]) == CANARY


def test_an_echoed_key_is_hidden_in_texts_and_in_chains_of_exceptions() -> None:
    server = JudgeServer(LOCAL, CANARY)
    error, cause, context = ValueError(f"no {CANARY}", 1), KeyError(CANARY), OSError(CANARY)
    error.__cause__, cause.__context__ = cause, context
    server.hide_key_in(error)
    assert server.hide_key(f"Bearer {CANARY}!") == "Bearer [api_key]!"
    assert error.args == ("no [api_key]", 1)
    assert "canary" not in f"{cause}{context}"


@pytest.mark.parametrize("key", [None, "x", "EMPTY", "1"])
def test_a_key_that_is_no_secret_does_not_garble_texts(key: str | None) -> None:
    assert JudgeServer(LOCAL, key).hide_key("EMPTY: 1 x is not-needed") == "EMPTY: 1 x is not-needed"
