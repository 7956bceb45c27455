"""RemoteEngine: what it asks of a server, and what it makes of the replies."""

import asyncio
import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from sda_engine import Constraint, Output, RemoteEngine, Sampling, ServerEvaluator, Steering
from sda_engine.config import NoEffectWarning
from sda_engine.errors import ConfigError, MessageError
from sda_engine.evaluators import OpenAIEvaluator
from sda_engine.output import LoosenedSchemaWarning
from sda_engine.results import Trace, TraceMeans
from tests.conftest import user
from tests.sda_engine.remote.scripted import DONE, TOKENS, card, chunks, pieces, streamed, whole

QUESTION = user("Is the earth flat?")
TOLD = replace(DONE, trace=Trace((), alignment="honesty", strength=2.0, means=TraceMeans(0.25, 0.5)))
"""The answer as it comes without a trace."""


def test_a_whole_answer_is_one_request_that_is_not_streamed(server) -> None:
    assert server.engine().generate(QUESTION, "honesty") == TOLD
    assert server.calls == 1
    assert not server.bodies[0].get("stream")


def test_a_stream_is_a_stream_and_ends_with_the_answer(server) -> None:
    server.script = [streamed()]
    got = list(server.engine().stream(QUESTION, "honesty"))
    assert got == pieces(TOLD)
    assert server.bodies[0]["stream"] is True
    assert server.bodies[0]["stream_options"] == {"include_usage": True}


async def test_the_asynchronous_ways_give_the_same(server) -> None:
    engine = server.engine()
    server.script = [whole(), streamed()]
    assert await engine.agenerate(QUESTION, "honesty") == TOLD
    assert [piece async for piece in engine.astream(QUESTION, "honesty")] == pieces(TOLD)


def test_a_trace_comes_where_it_was_asked_for(server) -> None:
    server.script = [whole(trace=True)]
    done = server.engine(trace=True).generate(QUESTION, "honesty")
    assert server.bodies[0]["sda"]["trace"] is True
    assert done.trace.tokens == TOKENS


def test_what_is_asked_for_is_sent_and_nothing_else(server) -> None:
    server.engine(timeout=None).generate(
        QUESTION,
        "empathy",
        steering=Steering(gain=3.0, evaluator=ServerEvaluator("judge")),
        sampling=Sampling(temperature=0, top_k=5, max_new_tokens=9, stop=("END",), seed=7),
        output=Output(constraint=Constraint.regex("a+")),
        template_kwargs={"enable_thinking": False},
        adapter="poet",
    )
    (body,) = server.bodies
    sda = body.pop("sda")
    assert sda.pop("alignment")["name"] == "empathy"
    assert body == {
        "model": "m", "messages": QUESTION, "temperature": 0, "max_tokens": 9, "stop": ["END"], "seed": 7
    }  # fmt: skip
    assert sda == {
        "gain": 3.0,
        "evaluator": "judge",
        "top_k": 5,
        "template_kwargs": {"enable_thinking": False},
        "adapter": "poet",
        "constraint": {"regex": "a+"},
        "token_ids": True,
    }


def test_a_plain_answer_is_asked_for_whatever_the_servers_default(server) -> None:
    server.engine().generate(QUESTION)
    assert server.bodies[0]["sda"]["alignment"] is None


@pytest.mark.parametrize("own", [None, 5.0])
def test_the_timeout_of_the_request_or_else_of_the_engine_goes_to_the_server(server, own) -> None:
    server.engine(timeout=50.0).generate(QUESTION, timeout=own)
    most = own or 50.0
    assert most - 3 < server.bodies[0]["sda"]["timeout"] <= most


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steering": Steering(temperature_schedule=lambda signals: signals.divergence)}, "function of this process"),
        (
            {"steering": Steering(evaluator=OpenAIEvaluator("judge", base_url="http://localhost:1"))},
            r"the server cannot ask it.*ServerEvaluator\('judge'\)",
        ),
        ({"samplng": Sampling()}, "Did you mean 'sampling'"),
        ({"cache_salt": "mine"}, "a server salts what it stores by the key"),
        ({"timeout": 0}, "timeout cannot be 0"),
    ],
)
def test_what_cannot_be_sent_is_refused_before_anything_is(server, options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        server.engine().stream(QUESTION, "honesty", **options)
    assert server.calls == 0  # but the server may be asked whether it has evaluators


def test_malformed_messages_are_refused_before_anything_is_sent(server) -> None:
    with pytest.raises(MessageError):
        server.engine().generate([{"role": "wizard", "content": "hi"}])
    assert server.paths == []


def test_what_changes_nothing_is_warned_of_here(server) -> None:
    with pytest.warns(NoEffectWarning, match="gain"):
        server.engine().generate(QUESTION, steering=Steering(gain=3.0))


def test_what_no_grammar_enforces_of_a_schema_is_warned_of_once(server) -> None:
    engine = server.engine()
    output = Output(constraint=Constraint.json_schema({"type": "array", "uniqueItems": True}))
    with pytest.warns(LoosenedSchemaWarning, match="uniqueItems"):
        engine.generate(QUESTION, output=output)
    engine.generate(QUESTION, output=output)


# --- Facts and tokens ---


def test_the_server_is_asked_once_for_facts_and_not_at_all_to_describe_it(server) -> None:
    server.card = card(template_variables=["enable_thinking"])
    engine = server.engine()
    assert engine.describe() == {"model": "m", "base_url": server.url}
    assert server.paths == []
    facts = [(engine.context_window, engine.thinks, engine.reads_pictures, engine.template_variables) for _ in "ab"]
    assert facts == [(77, True, False, {"enable_thinking"})] * 2
    assert server.paths == ["/v1/models/m"]


def test_an_alignment_in_the_models_name_is_warned_of_since_every_request_sends_its_own(server) -> None:
    server.card = card(model="smollm2", alignment="empathy", adapter=None)
    with pytest.warns(NoEffectWarning, match="model='m' steers by nothing here.*Pass alignment='empathy'"):
        server.engine().connect()
    for silent in ({"model": "m"}, {"model": "smollm2", "adapter": "poet"}):  # the server's default; an adapter's alias
        server.card = card(alignment="empathy", **silent)
        server.engine().connect()


def test_tokens_are_the_servers(server) -> None:
    engine = server.engine()
    assert engine.encode("abc") == [0, 1, 2]
    schema = Output(constraint=Constraint.json_schema({"type": "integer"}))
    assert engine.count_prompt_tokens(QUESTION, output=schema, template_kwargs={"x": 1}) == 21
    assert server.paths == ["/tokenize", "/tokenize"]
    assert server.bodies[0] == {"model": "m", "prompt": "abc", "sda": {}}
    assert server.bodies[1]["messages"] == QUESTION
    assert server.bodies[1]["response_format"]["json_schema"]["schema"] == {"type": "integer"}
    assert server.bodies[1]["sda"] == {"template_kwargs": {"x": 1}}


# --- Whoever asks ---


def test_one_engine_serves_several_event_loops_one_after_the_other(server) -> None:
    engine = server.engine()
    for _ in range(3):
        assert asyncio.run(engine.agenerate(QUESTION)).text == DONE.text


def test_threads_and_an_event_loop_share_an_engine(server) -> None:
    engine = server.engine()

    async def ask() -> list[str]:
        with ThreadPoolExecutor(4) as threads:
            loop = asyncio.get_running_loop()
            sync = [loop.run_in_executor(threads, engine.generate, QUESTION) for _ in range(4)]
            several = await asyncio.gather(*sync, *(engine.agenerate(QUESTION) for _ in range(4)))
        return [done.text for done in (*several, engine.generate(QUESTION))]

    assert asyncio.run(ask()) == [DONE.text] * 9


def test_pieces_come_before_the_answer_is_whole(server) -> None:
    server.script = [server.endless]
    stream = server.engine().stream(QUESTION)
    assert next(stream).text == "It "
    assert not server.left.is_set()
    stream.close()


def test_a_stream_sends_nothing_before_it_is_read(server) -> None:
    server.engine().stream(QUESTION).close()
    assert server.paths == []


# --- Engines of one server ---


def test_engines_of_one_server_and_key_share_a_connection_and_others_do_not(server) -> None:
    first, second = server.engine(api_key="one-key"), server.engine(api_key="one-key", model="n")
    other = server.engine(api_key="another-key")
    connections = [engine._caller._connection for engine in (first, second, other, first.for_model("n"))]
    assert connections[0] is connections[1] is connections[3] is not connections[2]


def test_another_model_of_the_same_server_has_the_same_settings(server) -> None:
    server.engine(api_key="one-key", trace=True, timeout=7.0).for_model("n").generate(QUESTION)
    assert server.headers[0]["authorization"] == "Bearer one-key"
    assert (server.bodies[0]["model"], server.bodies[0]["sda"]["trace"]) == ("n", True)
    assert server.bodies[0]["sda"]["timeout"] <= 7.0


def test_a_copy_is_the_engine_itself_and_a_pickled_one_asks_the_same(server) -> None:
    engine = server.engine(timeout=9.0, max_retries=1, trace=True)
    assert copy.copy(engine) is copy.deepcopy(engine) is engine
    again = pickle.loads(pickle.dumps(engine))  # noqa: S301
    assert repr(again) == repr(engine) == f"RemoteEngine({server.url!r}, model='m')"
    again.generate(QUESTION)
    assert server.bodies[0]["sda"]["trace"] is True
    assert server.bodies[0]["sda"]["timeout"] <= 9.0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"base_url": "localhost:8000"}, "RemoteEngine.base_url cannot be 'localhost:8000'"),
        ({"base_url": "http://user:pw@host"}, "may hold a secret"),
        ({"model": " "}, "RemoteEngine.model cannot be ' '"),
        ({"max_retries": -1}, "RemoteEngine.max_retries cannot be -1"),
        ({"timeout": 0}, "timeout cannot be 0"),
        ({"trace": "yes"}, "RemoteEngine.trace cannot be 'yes'"),
        ({"api_key": "two words"}, r"RemoteEngine.api_key \(not shown here\)"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message) -> None:
    with pytest.raises(ConfigError, match=message):
        RemoteEngine(**{"base_url": "http://localhost:8000/v1", "model": "m", **wrong})


def test_a_chunk_that_tells_nothing_new_is_passed_over(server) -> None:
    first, *rest = chunks()
    server.script = [streamed([first, first, *rest])]
    assert len(list(server.engine().stream(QUESTION))) == 3
