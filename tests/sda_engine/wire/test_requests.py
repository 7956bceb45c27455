"""What a client asks for is what its server reads."""

import json

import pytest
from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st
from PIL import Image

from sda_engine import Alignment, Steering
from sda_engine.alignment import PRESETS
from sda_engine.contents import read_pictures
from sda_engine.errors import ConfigError, MessageError
from sda_engine.evaluators import EnsembleEvaluator, EvaluationRequest, FixedScore
from sda_engine.output import Constraint, Output
from sda_engine.pictures import PictureLimits
from sda_engine.prompts import normalise_messages
from sda_engine.request_settings import RequestSettings
from sda_engine.wire import ServerEvaluator
from sda_engine.wire.read_request import (
    read_chat_settings,
    read_completion_settings,
    read_messages,
    read_output,
    read_tokenize_output,
)
from sda_engine.wire.requests import CompletionRequest, TokenizeRequest
from sda_engine.wire.write_request import write_alignment, write_chat_request, write_messages, write_tokenize_request
from tests.conftest import user
from tests.sda_engine.wire.asked import ALIGNMENTS, STEERING, body, fitting, outputs, parsed, server
from tests.sda_engine.wire.asked import settings as all_settings
from tests.sda_engine.wire.chats import CHATS

BOTH = Alignment(avoid="a", instruction="b")


@bounds(max_examples=100)
@given(asked=all_settings, trace=st.booleans(), chat=st.sampled_from(CHATS))
def test_what_is_asked_for_is_what_is_read(asked, trace, chat):
    request = parsed(write_chat_request("tiny", chat, asked, trace=trace))
    read = read_chat_settings(request, server())
    assert read.alignment == asked.alignment
    assert read.steering == asked.steering
    assert read.steering.given().keys() == asked.steering.given().keys()
    assert read.sampling == over_the_wire(asked.sampling)
    assert read.output == with_its_effect(asked.output)
    assert (read.timeout, read.adapter) == (asked.timeout, asked.adapter)
    assert read.template_kwargs == asked.template_kwargs
    assert (request.model, request.sda.trace, request.sda.token_ids) == ("tiny", trace, True)
    assert normalise_messages(read_messages(request.messages)) == with_types(normalise_messages(chat))


def over_the_wire(sampling):
    """The same sampling; of no limit by top_p OpenAI has a figure, and no word."""
    return sampling.replace(top_p=1.0) if sampling.top_p is None else sampling


def with_its_effect(output):
    """The same form, without what says of no tools how to call them."""
    return output if output.tools else output.replace(tool_choice="auto", parallel_tool_calls=False)


def with_types(chat):
    """A chat whose calls say what they are."""
    calls = [message | {"tool_calls": [{"type": "function", **call} for call in message["tool_calls"]]}
             for message in chat if "tool_calls" in message]  # fmt: skip
    return [calls.pop(0) if "tool_calls" in message else message for message in chat]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, legal in STEERING.items() for value in legal])
def test_every_value_of_steering_goes_over_the_wire(name, value):
    needed = {
        **({"temperature_schedule": "critical_tokens"} if name.startswith("critical") else {}),
        **({"policy": "revise"} if name in ("revisions", "keep", "chooser") else {}),
    }
    asked = RequestSettings(ALIGNMENTS[3], fitting({**needed, name: value}))
    assert name in asked.steering.given()
    read = read_chat_settings(parsed(write_chat_request("tiny", CHATS[0], asked)), server())
    assert read.steering == asked.steering


@pytest.mark.parametrize("alignment", [*ALIGNMENTS, *PRESETS.values()])
def test_every_alignment_goes_over_the_wire(alignment):
    sent = parsed(body(sda={"alignment": write_alignment(alignment)}))
    assert read_chat_settings(sent, server(alignment=PRESETS["harmlessness"])).alignment == alignment


@pytest.mark.parametrize(
    ("given", "means"),
    [
        ("honesty", PRESETS["honesty"]),
        (" Honesty ", PRESETS["honesty"]),
        ("Use plain words.", Alignment(instruction="Use plain words.")),
        ("house", PRESETS["empathy"]),
        ({"avoid": "Jargon."}, Alignment(avoid="Jargon.")),
        ({"house": 1, "honesty": 3}, Alignment.combine({"empathy": 1, "honesty": 3})),
        ([["house", 1], [{"avoid": "a", "instruction": "b"}, 2]], Alignment.combine([("empathy", 1), (BOTH, 2)])),
    ],
)
def test_an_alignment_is_a_name_of_the_servers_a_preset_an_instruction_an_object_or_several(given, means):
    defaults = server(alignments={"house": PRESETS["empathy"]})
    assert read_chat_settings(parsed(body(sda={"alignment": given})), defaults).alignment == means


def test_a_name_of_the_servers_own_comes_before_a_preset():
    own = Alignment(instruction="Quote the sources.", name="honesty")
    defaults = server(alignments={"honesty": own})
    assert read_chat_settings(parsed(body(sda={"alignment": "honesty"})), defaults).alignment == own
    combined = read_chat_settings(parsed(body(sda={"alignment": {"honesty": 1, "empathy": 1}})), defaults).alignment
    assert combined.instructions[0] == "Quote the sources."


def test_nobody_is_warned_in_the_server_of_what_a_client_writes(recwarn):
    for text in ("Never swear.", "honestyy"):
        read_chat_settings(parsed(body(sda={"alignment": text})), server())
        read_chat_settings(parsed(body(sda={"alignment": {text: 1, "empathy": 1}})), server())
    assert not recwarn.list


def test_pictures_go_as_data_urls_and_come_out_pixel_for_pixel(tmp_path):
    picture = Image.effect_noise((9, 7), 80).convert("RGB")
    path = tmp_path / "picture.png"
    picture.save(path)
    chat = [
        {"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "What is it?"}]},
        {"role": "tool", "content": [{"type": "text", "text": "Seen:"}, {"type": "image", "image": path}]},
    ]
    sent = write_messages(chat)
    assert sent[0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    assert str(tmp_path) not in json.dumps(sent)
    limits = PictureLimits(most=2, pixels=100, bytes=10_000)
    read = normalise_messages(read_messages(parsed(body(messages=sent)).messages))
    assert read_pictures(read, limits) == read_pictures(normalise_messages(chat), limits)


def test_no_address_of_a_picture_is_fetched():
    part = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/secret.png"}}
    read = normalise_messages(read_messages(parsed(body(messages=[{"role": "user", "content": [part]}])).messages))
    with pytest.raises(MessageError, match="no address is fetched here"):
        read_pictures(read, PictureLimits(most=2, pixels=100, bytes=10_000))


@pytest.mark.parametrize("message", [{"role": "user"}, {"role": "assistant", "content": None, "tool_calls": []}])
def test_a_turn_that_holds_nothing_is_an_error_with_its_place(message):
    with pytest.raises(MessageError, match=r"^messages\[1\] has no content"):
        read_messages(parsed(body(messages=[*user("Hi."), message])).messages)


@pytest.mark.parametrize("arguments", ["{", "[]", '{"a": NaN}', '{"a": "\\ud800"}', "[" * 10**5, '{"a": 1e999}'])
def test_arguments_that_are_no_json_object_are_an_error_with_their_place(arguments):
    called = {"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": arguments}}]}
    with pytest.raises(MessageError, match=r"^messages\[1\]\.tool_calls\[0\] has arguments that are no JSON"):
        read_messages(parsed(body(messages=[*user("Hi."), called])).messages)


def test_a_developer_turn_is_a_system_turn_and_arguments_may_be_empty():
    call = {"id": "1", "type": "function", "index": 0, "function": {"name": "now", "arguments": ""}}
    turns = [
        {"role": "developer", "content": "Be brief."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    system, called = read_messages(parsed(body(messages=turns)).messages)
    assert system == {"role": "system", "content": "Be brief."}
    assert called["tool_calls"] == [{"type": "function", "id": "1", "function": {"name": "now", "arguments": {}}}]


def test_what_lives_in_this_process_cannot_be_sent():
    judges = EnsembleEvaluator([FixedScore(10), FixedScore(20)])
    for name, value in {
        "evaluator": judges,
        "amplification_curve": lambda score: score / 100,
        "temperature_schedule": lambda signals: signals.temperature,
        "keep": lambda check: True,
    }.items():
        with pytest.raises(ConfigError, match=name) as refused:
            write_chat_request("tiny", user("Hi."), RequestSettings(ALIGNMENTS[1], Steering.of_values({name: value})))
        assert refused.value.field == name


@pytest.mark.parametrize("part", ["half \ud800", "\udc80"])
def test_half_a_surrogate_pair_is_refused_before_anything_is_sent(part):
    call = {"function": {"name": "add", "arguments": {"a": part}}}
    for message in (*user(part), {"role": "assistant", "content": "", "tool_calls": [call]}):
        with pytest.raises(MessageError, match="half a surrogate pair"):
            write_messages([message])
    asked = RequestSettings(template_kwargs={"note": part})
    with pytest.raises(ConfigError, match=r"sda\.template_kwargs\.note holds half a surrogate pair"):
        write_chat_request("tiny", user("Hi."), asked)


def test_an_evaluator_of_the_servers_rates_nowhere_else():
    judge = ServerEvaluator("judge")
    with pytest.raises(ConfigError, match="'judge' is the server's"):
        judge.evaluate(EvaluationRequest([], "", PRESETS["honesty"]))
    with pytest.raises(ConfigError, match="a name that the server knows"):
        ServerEvaluator(" ")


@given(output=outputs, kwargs=st.sampled_from([{}, {"enable_thinking": True}]))
@bounds(max_examples=30)
def test_a_count_is_of_the_prompt_that_the_answer_would_have(output, kwargs):
    sent = write_tokenize_request("tiny", CHATS[2], output, kwargs)
    request = TokenizeRequest.parse(json.dumps(sent).encode())
    read = read_tokenize_output(request)
    assert read.callable_tools == output.callable_tools
    assert read.schema_prompt == output.schema_prompt
    assert ((request.sda and request.sda.template_kwargs) or {}) == kwargs
    assert normalise_messages(read_messages(request.messages)) == with_types(normalise_messages(CHATS[2]))


@pytest.mark.parametrize(
    ("fields", "output"),
    [
        ({"response_format": {"type": "text"}}, Output()),
        ({"response_format": {"type": "json_object"}}, Output(constraint=Constraint.json_schema({"type": "object"}))),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "string"}}}},
            Output(constraint=Constraint.json_schema({"type": "string"})),
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {
                        "name": "n",
                        "description": "A.",
                        "schema": {"type": "string"},
                        "strict": True,
                    },
                }
            },
            Output(constraint=Constraint.json_schema({"description": "A.", "type": "string"}), strict=True),
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "now", "strict": True}}], "tool_choice": "required"},
            Output(tools=[{"name": "now"}], tool_choice="required", strict=True),
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "now", "strict": True}}], "sda": {"strict": False}},
            Output(tools=[{"name": "now"}]),
        ),
    ],
)
def test_openais_own_ways_to_say_a_form(fields, output):
    request = parsed(body(**fields))
    assert read_output(request, request.sda) == output


def test_a_function_may_not_be_called_what_a_choice_is_called():
    tools = [{"type": "function", "function": {"name": "none"}}]
    choice = {"type": "function", "function": {"name": "none"}}
    with pytest.raises(ConfigError, match="another name") as refused:
        read_chat_settings(parsed(body(tools=tools, tool_choice=choice)), server())
    assert refused.value.field == "tool_choice"


def test_a_completion_has_no_form_but_that_of_sda():
    request = CompletionRequest.of(
        {"model": "tiny", "prompt": "Hi.", "logprobs": 3, "sda": {"constraint": {"regex": "a"}}}
    )
    read = read_completion_settings(request, server())
    assert read.output == Output(constraint=Constraint.regex("a"))
    assert read.sampling.logprobs == 3


def test_a_list_of_the_wrong_length_is_told_how_long_it_may_be():
    with pytest.raises(ConfigError, match=r"prompt cannot be \[\]: it must be a text, or a list of at least 1 item\."):
        CompletionRequest.of({"model": "tiny", "prompt": []})
    with pytest.raises(ConfigError, match=r"sda\.revisions cannot be .* it must be a list of at most 16 items\."):
        parsed(body(sda={"revisions": [{}] * 17}))
