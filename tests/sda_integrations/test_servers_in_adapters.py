"""ChatSDA, SDALLM and the Inspect provider over a server: what they ask of it, and what they keep and show."""

import copy
import json
import pickle
from dataclasses import replace

import pytest
from inspect_ai.model import ChatMessageUser, GenerateConfig, get_model
from langchain_core.caches import InMemoryCache
from langchain_core.load import dumpd, dumps
from llama_index.core.prompts import PromptTemplate
from pydantic import BaseModel

from sda_engine import EngineSettings, RemoteEngine, ServerEvaluator
from sda_engine.adapting import is_engine
from sda_engine.errors import ConfigError, QueueFullError, ServerError
from sda_engine.evaluators import OpenAIEvaluator
from sda_engine.testing import ScriptedEngine
from sda_integrations.inspect import SDAModelAPI
from sda_integrations.inspect.retries import decide_retry
from sda_integrations.langchain import ChatSDA
from sda_integrations.llama_index import SDALLM
from tests.sda_engine.remote.scripted import CANARY, DONE, card, fault, http, server, streamed, told, whole

__all__ = ["http", "server"]

pytestmark = pytest.mark.usefixtures("no_event_loop_is_left_behind")

FEW = {"alignment": "honesty", "gain": 3.0, "max_tokens": 9}


def over(server, kind=ChatSDA, **fields):
    return kind(base_url=server.url, api_key=CANARY, model="m", **fields)


def answers(server):
    """The bodies of requests for answers."""
    return [body for body in server.bodies if "messages" in body]


# --- What an engine is ---


def test_both_engines_have_what_adapters_need(server) -> None:
    with ScriptedEngine("Hello.") as engine:
        assert is_engine(engine)
    assert is_engine(server.engine())
    assert server.paths == []  # no property was read
    for other in (None, "smollm2-135m", RemoteEngine, object()):
        assert not is_engine(other)


@pytest.mark.parametrize("kind", [ChatSDA, SDALLM])
@pytest.mark.parametrize("other", ["smollm2-135m", object(), RemoteEngine])
def test_whatever_else_is_refused_as_an_engine(kind, other) -> None:
    with pytest.raises(ConfigError, match=r"engine cannot be .*must be an engine.*SteeringEngine.*RemoteEngine"):
        kind(engine=other)


@pytest.mark.parametrize("kind", [ChatSDA, SDALLM])
def test_a_remote_engine_at_hand_is_as_good(server, kind) -> None:
    model = kind(engine=server.engine(), **FEW)
    assert model.model == "m"
    assert server.paths == []
    text = model.invoke("Hi").text if kind is ChatSDA else model.complete("Hi").text
    assert text == DONE.text
    assert answers(server)[0]["sda"]["gain"] == 3.0


# --- Answers ---


async def test_langchain_answers_over_a_server_on_every_route(server) -> None:
    chat = over(server, **FEW)
    assert server.paths == []
    server.script = [whole(), whole(), streamed(), streamed()]
    done = [chat.invoke("Hi"), await chat.ainvoke("Hi")]
    streams = [[*chat.stream("Hi")], [chunk async for chunk in chat.astream("Hi")]]
    assert [one.text for one in done] == [DONE.text] * 2
    assert ["".join(chunk.text for chunk in stream) for stream in streams] == [DONE.text] * 2
    assert done[0].usage_metadata["input_tokens"] == 7
    assert done[0].response_metadata["sda"]["alignment"] == "honesty"
    assert done[0].response_metadata["model_name"] == "m"
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {CANARY}"}
    assert [body["sda"]["gain"] for body in answers(server)] == [3.0] * 4
    assert [body["max_tokens"] for body in answers(server)] == [9] * 4


async def test_llama_index_answers_over_a_server_on_every_route(server) -> None:
    llm = over(server, SDALLM, **FEW)
    assert server.paths == []
    server.script = [whole(), whole(), streamed(), streamed()]
    done = [llm.complete("Hi"), await llm.acomplete("Hi")]
    last = [*llm.stream_complete("Hi")][-1], [one async for one in await llm.astream_complete("Hi")][-1]
    assert [one.text for one in (*done, *last)] == [DONE.text] * 4
    assert done[0].raw["sda"]["alignment"] == "honesty"
    assert llm.metadata.context_window == 77
    assert [body["sda"]["gain"] for body in answers(server)] == [3.0] * 4


class Person(BaseModel):
    name: str


def test_tools_and_schemas_go_to_the_server(server) -> None:
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    server.script = [whole(), whole(replace(DONE, text='{"name": "Ada"}'))]
    chat = over(server)
    chat.bind_tools([add], tool_choice="any").invoke("1 + 1?")
    assert chat.with_structured_output(Person).invoke("Who?") == Person(name="Ada")
    assert over(server, SDALLM).structured_predict(Person, PromptTemplate("Who?")) == Person(name="Ada")
    with_tool, with_schema, of_llama_index = answers(server)
    assert (with_tool["tools"][0]["function"]["name"], with_tool["tool_choice"]) == ("add", "required")
    for body in (with_schema, of_llama_index):
        assert body["response_format"]["json_schema"]["schema"]["required"] == ["name"]


def test_tokens_are_counted_by_the_server(server) -> None:
    chat, llm = over(server), over(server, SDALLM)
    assert chat.get_num_tokens("abc") == 3
    assert chat.get_num_tokens_from_messages(chat._convert_input("Hi").to_messages()) == 21
    assert llm.load().encode("ab") == [0, 1]


def test_another_model_for_one_call_is_one_of_the_same_server(server) -> None:
    over(server).invoke("Hi", model="n")
    ChatSDA(engine=server.engine(api_key=CANARY)).invoke("Hi", model="n")
    assert [body["model"] for body in answers(server)] == ["n", "n"]
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {CANARY}"}


def test_an_evaluator_is_one_of_the_servers_or_refused(server) -> None:
    over(server, alignment="honesty", evaluator=ServerEvaluator("judge")).invoke("Hi")
    assert answers(server)[0]["sda"]["evaluator"] == "judge"
    ours = OpenAIEvaluator("judge", base_url="http://localhost:1")
    with pytest.raises(ConfigError, match="ServerEvaluator"):
        over(server, alignment="honesty", evaluator=ours).invoke("Hi")


def test_errors_of_the_server_come_through_as_they_are(server) -> None:
    server.script = [told(QueueFullError("full"))]
    for ask in (over(server, max_retries=0).invoke, over(server, SDALLM, max_retries=0).complete):
        with pytest.raises(QueueFullError):
            ask("Hi")
    assert server.calls == 2


# --- What a model can do ---


def test_the_profile_is_known_when_the_server_was_asked_and_it_is_not_asked_before(server) -> None:
    server.card = card(reads_pictures=True)
    for chat in (over(server), ChatSDA(engine=server.engine(), api_key="dropped")):
        assert "max_input_tokens" not in chat.profile
        before = len(server.paths)
        chat.invoke("Hi")
        assert (chat.profile["max_input_tokens"], chat.profile["image_inputs"]) == (76, True)
        chat.invoke("Hi")
        assert server.paths[before:].count("/v1/models/m") == 1


async def test_a_first_asynchronous_call_asks_too_and_a_profile_of_ones_own_stays(server) -> None:
    chat = over(server, profile={"max_input_tokens": 5})
    await chat.ainvoke("Hi")
    assert chat.profile == {"max_input_tokens": 5}
    chat = over(server)
    await chat.ainvoke("Hi")
    assert chat.profile["max_input_tokens"] == 76


# --- What belongs to the server ---

LOADING = [
    {"revision": "main"},
    {"device": "cpu"},
    {"dtype": "float32"},
    {"device_map": "auto"},
    {"quantization_config": object()},
    {"adapters": {"a": "b"}},
    {"engine_settings": EngineSettings()},
]


@pytest.mark.parametrize("field", LOADING, ids=lambda field: next(iter(field)))
def test_how_to_load_a_model_is_the_servers_to_know(server, field) -> None:
    (name,) = field
    makers = (
        lambda: ChatSDA(base_url=server.url, **field),
        lambda: SDALLM(base_url=server.url, **field),
        lambda: SDAModelAPI("m", base_url=server.url, **field),
    )
    for make in makers[name == "quantization_config" :]:  # LangChain's field is of transformers' type
        with pytest.raises(ConfigError, match=f"{name} says how to load a model.*give {name} to the server"):
            make()


@pytest.mark.parametrize("kind", [ChatSDA, SDALLM])
def test_an_engine_and_a_server_exclude_each_other(server, kind) -> None:
    with pytest.raises(ConfigError, match="base_url"):
        kind(engine=server.engine(), base_url=server.url)


@pytest.mark.parametrize(
    "wrong",
    [{"base_url": "localhost"}, {"base_url": 5}, {"max_retries": -1}, {"api_key": [CANARY]}, {"api_key": f"{CANARY} "}],
)
@pytest.mark.parametrize("kind", [ChatSDA, SDALLM])
def test_what_is_wrong_shows_at_construction_and_no_key_does(kind, wrong) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))) as caught:
        kind(**{"base_url": "http://localhost:1/v1", **wrong})
    assert CANARY not in str(caught.value)


def test_a_key_without_a_server_is_dropped_by_langchain_and_refused_by_llama_index() -> None:
    with ScriptedEngine("Hello.") as engine:
        assert ChatSDA(engine=engine, api_key=CANARY, max_retries=2).api_key is None
    with pytest.raises(ConfigError, match="api_key is for a server"):
        SDALLM(api_key=CANARY)


# --- What is kept and shown ---


def test_copies_keep_the_key_and_pickles_do_not(server, monkeypatch) -> None:
    for model in (over(server, **FEW), over(server, SDALLM, **FEW)):
        ask = "invoke" if isinstance(model, ChatSDA) else "complete"
        getattr(copy.deepcopy(model), ask)("Hi")
        assert server.headers[-1]["authorization"] == f"Bearer {CANARY}"
        written = pickle.dumps(model)
        assert CANARY.encode() not in written
        monkeypatch.setenv("SDA_API_KEY", "another-key-0123")
        again = pickle.loads(written)  # noqa: S301
        assert (again.base_url, again.model, again.api_key) == (server.url, "m", None)
        assert getattr(again, ask)("Hi").text == DONE.text
        assert server.headers[-1]["authorization"] == "Bearer another-key-0123"
        monkeypatch.delenv("SDA_API_KEY")


def test_a_copy_without_its_key_says_so_when_it_is_refused(server) -> None:
    server.card = fault(401, "no key")
    for model in (over(server), over(server, SDALLM)):
        again = pickle.loads(pickle.dumps(model))  # noqa: S301
        with pytest.raises(ConfigError, match=r"api_key.*SDA_API_KEY.*pickles and dumps keep no key"):
            again.invoke("Hi") if isinstance(again, ChatSDA) else again.complete("Hi")


@pytest.mark.parametrize("kind", [ChatSDA, SDALLM])
def test_a_pickled_copy_of_one_with_an_engine_at_hand_asks_the_same_server(server, kind) -> None:
    again = pickle.loads(pickle.dumps(kind(engine=server.engine(api_key=CANARY))))  # noqa: S301
    assert (again.engine, again.base_url, again.model) == (None, server.url, "m")


def test_nothing_that_langchain_shows_has_the_key(server) -> None:
    chat = over(server, **FEW)
    chat.invoke("Hi")
    shown = [repr(chat), dumps(chat), json.dumps(dumpd(chat), default=repr), repr(chat.model_dump()), repr(vars(chat))]
    shown += [chat._get_llm_string(), repr(chat._identifying_params), repr(chat._get_ls_params())]
    assert CANARY not in "".join(shown)
    assert server.url in chat._get_llm_string()


def test_nothing_that_llama_index_shows_has_the_key_and_a_dict_makes_the_model_again(server) -> None:
    llm = over(server, SDALLM, **FEW)
    written = llm.to_dict()
    assert CANARY not in repr([written, llm, llm.to_payload(), llm.to_json()])
    assert llm.to_payload()["base_url"] == written["base_url"] == server.url
    again = SDALLM.from_dict(written, api_key=CANARY)
    assert again.complete("Hi").text == DONE.text
    assert SDALLM.from_dict(written, engine=server.engine()).base_url is None


def test_caches_tell_servers_and_models_apart_and_not_keys(server) -> None:
    cache = InMemoryCache()
    same = [over(server, cache=cache), ChatSDA(base_url=f"{server.url}/", model="m", cache=cache)]
    same.append(ChatSDA(engine=server.engine(), cache=cache))
    for chat in same:
        chat.invoke("Hi")
    assert server.calls == 1
    over(server, cache=cache).invoke("Hi", model="n")
    assert server.calls == 2
    other = ChatSDA(base_url="http://localhost:1/v1", model="m")
    assert other._get_llm_string() != same[0]._get_llm_string()


# --- Inspect ---


async def ask(api, **config):
    output, call = await api.generate([ChatMessageUser(content="Hi")], [], "none", GenerateConfig(**config))
    return output, call


async def test_inspect_answers_over_a_server(server) -> None:
    server.script = [whole(trace=True)]
    server.card = card(thinks=False, template_variables=["reasoning_effort"])
    api = get_model(
        "sda/m", base_url=server.url, api_key=CANARY, alignment="honesty", evaluator="server:judge", memoize=False
    ).api
    output, call = await ask(api, reasoning_effort="low", max_tokens=9)
    assert output.completion == DONE.text
    assert output.metadata["sda"]["alignment"] == "honesty"
    assert len(output.metadata["sda"]["tokens"]) == 3
    (body,) = answers(server)
    assert (body["sda"]["evaluator"], body["sda"]["template_kwargs"]) == ("judge", {"reasoning_effort": "low"})
    kept = {name: value for name, value in vars(api).items() if name != "__registry_params__"}  # which are Inspect's
    assert CANARY not in repr([output, call, kept])
    assert call.request["model"] == {"model": "m", "base_url": server.url}
    assert await api.tokenize("abc") == [0, 1, 2]
    assert server.url in api.connection_key()


@pytest.mark.parametrize(
    ("error", "again"),
    [(ServerError("gone"), True), (ServerError("fault", status=500), True), (ServerError("no", status=404), False)],
)
def test_inspect_tries_again_what_may_pass(error, again) -> None:
    assert decide_retry(error).retry is again
