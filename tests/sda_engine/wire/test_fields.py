"""The fields of requests: OpenAI's, each honoured or refused, and those of `sda`."""

import typing

import pytest
from jsonschema import Draft202012Validator
from openai.types import completion_create_params as of_completions
from openai.types.chat import completion_create_params as of_chats

from sda_engine import Sampling, Steering
from sda_engine.errors import ConfigError
from sda_engine.wire.openai_fields import CHAT_FIELDS, COMPLETION_FIELDS
from sda_engine.wire.read_request import read_chat_settings
from sda_engine.wire.replies import ChatChunk, ChatReply, ErrorReply
from sda_engine.wire.requests import ChatRequest, CompletionRequest, TokenizeRequest
from sda_engine.wire.sda_field import SDAField
from tests.sda_engine.wire.asked import STEERING, body, parsed, server

ROUTES = {
    "chat": (ChatRequest, CHAT_FIELDS, of_chats),
    "completions": (CompletionRequest, COMPLETION_FIELDS, of_completions),
}
REFUSED = [
    (route, name) for route, (_, fields, _) in ROUTES.items() for name, field in fields.items() if not field.honoured
]
IN_SDA_OF_SAMPLING = {"top_k", "min_p", "max_reasoning_tokens"}
OWN = {
    *("alignment", "template_kwargs", "schema_in_prompt", "strict", "adapter"),
    *("timeout", "constraint", "trace", "token_ids"),
}
COARSE = {"type": "image_url", "image_url": {"url": "data:,", "detail": "low"}}
ILLEGAL = {
    **dict.fromkeys(["amplification", "plausibility"], 1.5),
    **dict.fromkeys(["critical_divergence", "quiet_divergence"], 0.7),
    "accept_score": 0,
    "temperature_sensitivity": 0,
    "critical_categories": ["verbs"],
    "revisions": [],
}


@pytest.fixture(params=ROUTES)
def route(request):
    return ROUTES[request.param]


def test_every_field_of_openais_sdk_is_honoured_or_refused_and_no_other(route):
    _, fields, sdk = route
    variants = typing.get_args(sdk.CompletionCreateParams)
    assert set(fields) == {name for variant in variants for name in typing.get_type_hints(variant)}


def test_the_honoured_fields_are_those_of_the_request(route):
    model, fields, _ = route
    assert {name for name, field in fields.items() if field.honoured} == set(model.model_fields) - {"sda"}


@pytest.mark.parametrize(("path", "name"), REFUSED)
def test_a_field_that_cannot_be_honoured_is_refused_by_its_name(path, name):
    model, fields, _ = ROUTES[path]
    with pytest.raises(ConfigError, match=rf"^{name} cannot be 'wanted': .*\.$") as refused:
        model.of({**minimal(path), name: "wanted"})
    assert refused.value.field == name
    assert fields[name].note in str(refused.value)


@pytest.mark.parametrize(("path", "name"), REFUSED)
def test_what_asks_for_nothing_passes_and_is_gone(path, name):
    model, fields, _ = ROUTES[path]
    for value in (None, *fields[name].ignorable):
        assert model.of({**minimal(path), name: value}) == model.of(minimal(path))


@pytest.mark.parametrize("value", [False, True, 0.5, "0", [0]])
def test_a_penalty_of_0_is_the_only_one_that_asks_for_nothing(value):
    assert ChatRequest.of(body(presence_penalty=0.0)) == ChatRequest.of(body())
    with pytest.raises(ConfigError, match="presence_penalty"):
        ChatRequest.of(body(presence_penalty=value))


def test_the_fields_of_sda_are_those_of_steering_and_what_openai_has_no_field_for():
    assert set(SDAField.model_fields) == {*Steering.model_fields, *IN_SDA_OF_SAMPLING, *OWN}
    assert set(STEERING) == set(Steering.model_fields)
    honoured = {name for name, field in CHAT_FIELDS.items() if field.honoured}
    names = {"max_new_tokens": "max_tokens"}
    assert {names.get(name, name) for name in Sampling.model_fields} - honoured == IN_SDA_OF_SAMPLING


@pytest.mark.parametrize("name", Steering.model_fields)
def test_sda_takes_what_steering_takes_by_name_and_refuses_the_rest_by_path(name):
    illegal = ILLEGAL.get(name, -1 if isinstance(STEERING[name][-1], float) else "nothing of that name")
    for wrong in (illegal, {"an": "object"}, True):
        with pytest.raises(ConfigError) as refused:
            read_chat_settings(parsed(body(sda={name: wrong})), server())
        assert str(refused.value.field).partition("[")[0] == f"sda.{name}", refused.value


@pytest.mark.parametrize(
    ("sda", "path"),
    [
        ({"Gain": 1}, "sda.Gain"),
        ({"a b": 1}, "sda.a b"),
        ([], "sda"),
        ({"timeout": 0}, "sda.timeout"),
        ({"top_k": 0}, "sda.top_k"),
        ({"template_kwargs": {"x": []}}, "sda.template_kwargs.x"),
        ({"template_kwargs": {"x": 2**60}}, "sda.template_kwargs"),
        ({"revisions": [{}, {"factor": -1}]}, "sda.revisions[1].factor"),
        ({"revisions": [{}] * 17}, "sda.revisions"),
        ({"alignment": 5}, "sda.alignment"),
        ({"alignment": {"instrction": "x"}}, "sda.alignment.instrction"),
        ({"alignment": {"instruction": 1}}, "sda.alignment.instruction"),
        ({"alignment": {"self": "x"}}, "sda.alignment.self"),
        ({"alignment": [["honesty", 1], [{"rubic": "x"}, 1]]}, "sda.alignment[1][0].rubic"),
        ({"alignment": [["honesty", -1]]}, "sda.alignment"),
        ({"alignment": [[[["honesty", 1]], 1]]}, "sda.alignment"),
        ({"alignment": [[f"Speak like person {n}.", 1] for n in range(17)]}, "sda.alignment"),
        ({"alignment": "word " * 20_000}, "sda.alignment"),
        ({"constraint": {}}, "sda.constraint"),
        ({"constraint": {"regex": "a", "lark": "start: /a/"}}, "sda.constraint"),
    ],
)
def test_an_error_in_sda_names_its_place(sda, path):
    with pytest.raises(ConfigError) as refused:
        read_chat_settings(parsed(body(sda=sda)), server())
    assert refused.value.field == path, refused.value


@pytest.mark.parametrize(
    ("fields", "path", "says"),
    [
        ({"Temperature": 1}, "Temperature", "Did you mean 'temperature'"),
        ({"top_k": 3}, "top_k", 'stands in sda, as in {"sda": {"top_k": ...}}'),
        ({"x" * 10_000: 1}, f"{'x' * 64}...", "has no field"),
        ({"n": 1e3}, "n", "a whole number"),
        ({"top_p": True}, "top_p", "cannot be true: it must be a number"),
        ({"stop": ["a", 1]}, "stop[1]", "a text"),
        ({"messages": None}, "messages", "cannot be null: it must be a list"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "a text, or a list"),
        ({"messages": [{"role": "user", "content": [[]]}]}, "messages[0].content[0]", "an object"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "txt": ""}]}]},
            "messages[0].content[0].text",
            "is missing",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "", "detail": "low"}}]}
                ]
            },
            "messages[0].content[0].image_url.detail",
            "'auto'",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
            "messages[0].content[0]",
            "it must be of the type 'text' or 'image_url'",
        ),
        ({"messages": [{"role": "robot", "content": ""}]}, "messages[0].role", "'developer'"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "letters"),
        ({"tools": [{"type": "function", "function": {"nme": "a"}}]}, "tools[0].function.name", "is missing"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function", "is missing"),
        ({"tool_choice": "any"}, "tool_choice", "'auto', 'none' or 'required', or an object"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "without its schema"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "at least 1"),
        ({"max_tokens": 0}, "max_tokens", "at least 1"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens", "one of the two"),
        ({"top_logprobs": 2}, "top_logprobs", "set logprobs to true"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream is not true"),
    ],
)
def test_an_error_names_the_field_and_says_what_it_must_be(fields, path, says):
    with pytest.raises(ConfigError) as refused:
        read_chat_settings(parsed(body(**fields)), server())
    assert refused.value.field == path
    assert says in str(refused.value)
    assert len(str(refused.value)) < 2_000


def test_the_other_routes_refuse_what_would_have_no_effect():
    with pytest.raises(ConfigError, match="at least 1 item"):
        CompletionRequest.of({"model": "tiny", "prompt": []})
    with pytest.raises(ConfigError, match="either a prompt or messages"):
        TokenizeRequest.of({})
    with pytest.raises(ConfigError, match="tools changes how a chat is rendered"):
        TokenizeRequest.of({"prompt": "Hello.", "tools": []})


@pytest.mark.parametrize("model", [ChatRequest, CompletionRequest, TokenizeRequest])
def test_the_schema_of_a_request_is_one_and_takes_nothing_unknown(model):
    schema = model.model_json_schema()
    Draft202012Validator.check_schema(schema)
    objects = [schema, *schema["$defs"].values()]
    assert {one["additionalProperties"] for one in objects} == {False}
    check = Draft202012Validator(schema)
    path = {ChatRequest: "chat", CompletionRequest: "completions"}.get(model, "chat")
    asked = {**minimal(path), "sda": {"strict": None, "template_kwargs": {"x": 1}}}
    assert check.is_valid(asked)
    assert not check.is_valid({**asked, "tempratur": 1})
    assert not check.is_valid({**asked, "sda": {"gian": 1}})


@pytest.mark.parametrize("model", [ChatReply, ChatChunk, ErrorReply])
@pytest.mark.parametrize("mode", ["validation", "serialization"])
def test_the_schema_of_a_reply_tells_its_fields(model, mode):
    schema = model.model_json_schema(mode=mode)
    Draft202012Validator.check_schema(schema)
    assert set(schema["properties"]) == set(model.model_fields)


def minimal(path):
    """The least that a route takes."""
    return body() if path == "chat" else {"model": "tiny", "prompt": "Is the earth flat?"}
