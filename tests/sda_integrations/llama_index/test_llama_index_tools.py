"""Tools: given in every form, called by every method, and read back from every message."""

import json
from itertools import pairwise

import pytest
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, TextBlock, ToolCallBlock
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel, Field

from sda_engine import Output
from sda_engine.errors import ConfigError, ConstraintError, IncompleteOutputError
from sda_engine.testing import call_text
from tests.sda_integrations.llama_index.asking import CHATTING, METHODS, STREAMING, ask, read
from tests.tool_choices import SPELLINGS

WITH_TOOLS = ("chat_with_tools", "achat_with_tools", "stream_chat_with_tools", "astream_chat_with_tools")
FORECAST = {"city": "Weimar", "days": 2}
CALL = call_text("weather", FORECAST)
TWO_CALLS = f"{CALL}\n{call_text('weather', {'city': 'Jena', 'days': 1})}"


class Office:
    """A weather office that remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def weather(self, city: str, days: int = 1) -> str:
        """The weather of a city."""
        self.asked.append((city, days))
        return f"{days} days of rain in {city}"


class Weather(BaseModel):
    """The weather of a city."""

    city: str = Field(description="where")
    days: int = 1


PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
FUNCTION = {"name": "weather", "description": "The weather of a city.", "parameters": PARAMETERS}
FORMS = {
    "BaseTool": FunctionTool.from_defaults(Office().weather),
    "function": Office().weather,
    "dict": {"type": "function", "function": FUNCTION},
    "inner dict": FUNCTION,
    "pydantic": Weather,
}


@pytest.fixture
def office():
    return Office()


@pytest.fixture
def tools(office):
    return [FunctionTool.from_defaults(office.weather)]


def requests(llm):
    return llm.load().requests


# --- what is asked for


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_tool_reaches_the_engine(scripted_llm, form):
    llm = scripted_llm("It rains.")
    llm.chat([ChatMessage(content="Hi")], tools=[FORMS[form]])
    llm.chat_with_tools([FORMS[form]], "Hi")
    first, second = (request.output.tools for request in requests(llm))
    assert first == second
    (tool,) = first
    assert tool.name.casefold() == "weather"
    assert tool.description.endswith("The weather of a city.")
    assert {name: each["type"] for name, each in tool.parameters["properties"].items()} == {
        "city": "string",
        "days": "integer",
    }


def test_a_description_may_be_longer_than_openai_allows(scripted_llm):
    tool = FunctionTool.from_defaults(Office().weather, description="Tells the weather. " * 100)
    llm = scripted_llm("It rains.")
    llm.chat_with_tools([tool], "Hi")
    llm.chat([ChatMessage(content="Hi")], tools=[tool])
    for request in requests(llm):
        assert request.output.tools[0].description == "Tells the weather. " * 100


def test_a_tool_keeps_a_name_that_openai_would_not_take(scripted_llm, office):
    tool = FunctionTool.from_defaults(office.weather, name="weather.now")
    answer = scripted_llm(call_text("weather.now", FORECAST)).predict_and_call([tool], "Hi")
    assert answer.response == "2 days of rain in Weimar"
    assert office.asked == [("Weimar", 2)]


@pytest.mark.parametrize(("choice", "expected"), SPELLINGS)
def test_every_spelling_of_a_choice_reaches_the_engine(scripted_llm, tools, choice, expected):
    llm = scripted_llm("It rains." if expected in ("auto", "none") else CALL)
    llm.chat([ChatMessage(content="Hi")], tools=tools, tool_choice=choice)
    llm.chat_with_tools(tools, "Hi", tool_choice=choice)
    assert [request.output.tool_choice for request in requests(llm)] == [expected, expected]


@pytest.mark.parametrize("method", WITH_TOOLS)
async def test_a_required_call_is_forced_unless_the_choice_says_otherwise(scripted_llm, tools, method):
    llm = scripted_llm(CALL)
    for keywords in ({"tool_required": True}, {"tool_required": True, "tool_choice": "auto"}):
        await read(method, getattr(llm, method)(tools, "Hi", **keywords))
    assert [request.output.tool_choice for request in requests(llm)] == ["required", "auto"]
    with pytest.raises(ConstraintError, match="does not fit"):
        await read(method, getattr(scripted_llm("It rains."), method)(tools, "Hi", tool_required=True))


def test_a_required_call_of_no_tool_is_a_plain_answer(scripted_llm):
    llm = scripted_llm("It rains.")
    assert llm.chat_with_tools([], "Hi", tool_required=True).message.content == "It rains."
    assert requests(llm)[0].output == Output()


@pytest.mark.parametrize(
    ("choice", "said"),
    [("wether", "wether"), (5, "cannot be 5"), ({"name": 5}, "cannot be 5"), ([], r"cannot be \[\]")],
)
def test_a_choice_that_is_none_is_refused(scripted_llm, tools, choice, said):
    llm = scripted_llm("It rains.")
    with pytest.raises(ConfigError, match=said):
        llm.chat_with_tools(tools, "Hi", tool_choice=choice)
    assert not requests(llm)


@pytest.mark.parametrize("method", WITH_TOOLS)
@pytest.mark.parametrize(("allowed", "count"), [(True, 2), (False, 1)])
async def test_several_calls_come_only_where_they_are_allowed(scripted_llm, tools, method, allowed, count):
    llm = scripted_llm(TWO_CALLS if allowed else CALL)
    last = (await read(method, getattr(llm, method)(tools, "Hi", allow_parallel_tool_calls=allowed)))[-1]
    assert requests(llm)[0].output.parallel_tool_calls is allowed
    made = llm.get_tool_calls_from_response(last)
    assert [call.tool_kwargs for call in made] == [FORECAST, {"city": "Jena", "days": 1}][:count]
    assert len({call.tool_id for call in made}) == count


@pytest.mark.parametrize("method", CHATTING)
async def test_a_second_call_is_not_written_where_one_is_allowed(scripted_llm, tools, method):
    llm = scripted_llm(TWO_CALLS)
    last = (await ask(llm, method, tools=tools, parallel_tool_calls=False))[-1]
    assert [call.tool_kwargs for call in llm.get_tool_calls_from_response(last)] == [FORECAST]


@pytest.mark.parametrize("method", WITH_TOOLS)
@pytest.mark.parametrize("user_msg", ["Hi", ChatMessage(role="user", content="Hi"), None])
@pytest.mark.parametrize("history", [None, [], [ChatMessage(role="system", content="Be brief.")]])
async def test_the_message_comes_after_the_history(scripted_llm, tools, method, user_msg, history):
    llm = scripted_llm("It rains.")
    expected = [{"role": "system", "content": "Be brief."}] if history else []
    expected += [{"role": "user", "content": "Hi"}] if user_msg is not None else []
    if expected:
        await read(method, getattr(llm, method)(tools, user_msg, chat_history=history))
        assert requests(llm)[0].messages == expected


def test_the_given_history_is_not_changed(scripted_llm, tools):
    history = [ChatMessage(content="Hi")]
    scripted_llm("It rains.").chat_with_tools(tools, "And?", chat_history=history)
    assert history == [ChatMessage(content="Hi")]


@pytest.mark.parametrize("method", WITH_TOOLS)
async def test_other_keywords_go_with_a_chat_with_tools(scripted_llm, tools, method):
    llm = scripted_llm(CALL, system_prompt="Be brief.")
    await read(method, getattr(llm, method)(tools, "Hi", alignment="honesty", amplification=0.5, max_tokens=300))
    (request,) = requests(llm)
    assert request.alignment.name == "honesty"
    assert request.steering.amplification == 0.5
    assert request.sampling.max_new_tokens == 300
    assert request.messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


# --- what comes back


@pytest.mark.parametrize("method", [*CHATTING, *WITH_TOOLS])
async def test_a_call_comes_back_as_a_block_and_in_the_format_of_openai(scripted_llm, tools, method):
    llm = scripted_llm(CALL)
    if method in WITH_TOOLS:
        last = (await read(method, getattr(llm, method)(tools, "Hi")))[-1]
    else:
        last = (await ask(llm, method, tools=tools))[-1]
    (block,) = last.message.blocks
    assert isinstance(block, ToolCallBlock)
    assert (block.tool_name, block.tool_kwargs) == ("weather", FORECAST)
    assert block.tool_call_id
    (call,) = last.message.additional_kwargs["tool_calls"]
    assert (call["id"], call["type"], call["function"]["name"]) == (block.tool_call_id, "function", "weather")
    assert json.loads(call["function"]["arguments"]) == FORECAST
    assert last.raw["finish_reason"] == "tool_calls"
    (selection,) = llm.get_tool_calls_from_response(last)
    assert (selection.tool_id, selection.tool_name, selection.tool_kwargs) == (block.tool_call_id, "weather", FORECAST)


@pytest.mark.parametrize("method", [method for method in METHODS if method not in CHATTING])
async def test_a_completion_has_its_call_in_the_format_of_openai(scripted_llm, tools, method):
    last = (await ask(scripted_llm(CALL), method, tools=tools, tool_choice="any"))[-1]
    (call,) = last.additional_kwargs["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == FORECAST
    assert (last.text, last.raw["finish_reason"]) == ("", "tool_calls")


@pytest.mark.parametrize("method", CHATTING)
async def test_text_may_come_before_a_call(scripted_llm, tools, method):
    last = (await ask(scripted_llm(f"Let me see.\n{CALL}"), method, tools=tools))[-1]
    text, call = last.message.blocks
    assert text == TextBlock(text="Let me see.")
    assert last.message.content == "Let me see."
    assert call.tool_kwargs == FORECAST


@pytest.mark.parametrize("method", CHATTING)
async def test_an_answer_without_a_call_is_text(scripted_llm, tools, method):
    llm = scripted_llm("It rains.")
    last = (await ask(llm, method, tools=tools))[-1]
    assert last.message.blocks == [TextBlock(text="It rains.")]
    assert "tool_calls" not in last.message.additional_kwargs
    assert llm.get_tool_calls_from_response(last, error_on_no_tool_call=False) == []
    with pytest.raises(ValueError, match=r"calls no tool: 'It rains.'"):
        llm.get_tool_calls_from_response(last)


@pytest.mark.parametrize("method", [method for method in CHATTING if method in STREAMING])
async def test_the_arguments_of_a_call_grow_in_a_stream(scripted_llm, tools, method):
    llm = scripted_llm(CALL)
    responses = await ask(llm, method, tools=tools)
    assert len(responses) > 5
    assert "".join(response.delta for response in responses) == ""
    blocks = [response.message.blocks[-1] for response in responses]
    assert {(block.tool_call_id, block.tool_name) for block in blocks} == {(blocks[0].tool_call_id, "weather")}
    texts = [block.tool_kwargs for block in blocks[:-1]]
    assert all(later.startswith(text) for text, later in pairwise(texts))
    assert json.loads(texts[-1]) == blocks[-1].tool_kwargs == FORECAST
    for response, text in zip(responses, texts, strict=False):
        assert response.message.additional_kwargs["tool_calls"][0]["function"]["arguments"] == text


@pytest.mark.parametrize("method", [method for method in CHATTING if method in STREAMING])
async def test_a_call_that_is_being_written_shows_the_arguments_so_far(scripted_llm, tools, method):
    llm = scripted_llm(CALL)
    seen = [llm.get_tool_calls_from_response(response)[0] for response in await ask(llm, method, tools=tools)]
    assert {selection.tool_name for selection in seen} == {"weather"}
    shown = [selection.tool_kwargs for selection in seen]
    assert shown[0] == {}
    assert shown[-1] == FORECAST
    assert {"city": "Weimar"} in shown
    assert all("Weimar".startswith(arguments.get("city", "")) for arguments in shown)
    assert {arguments.get("days", 2) for arguments in shown} == {2}


def message_response(**message):
    return ChatResponse(message=ChatMessage(role="assistant", **message))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"city": "Weimar"}', {"city": "Weimar"}),
        ({"city": "Weimar"}, {"city": "Weimar"}),
        ('{"city": "Wei', {"city": "Wei"}),
        ('{"city": "Weimar", "days": 1', {"city": "Weimar"}),
        ("", {}),
        ("{", {}),
        ("no JSON", {}),
        ("[1]", {}),
    ],
)
def test_calls_are_read_from_blocks_and_from_older_messages_whole_or_not(llm, arguments, expected):
    old = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    block = ToolCallBlock(tool_call_id="1", tool_name="weather", tool_kwargs=arguments)
    for response in (message_response(additional_kwargs={"tool_calls": [old]}), message_response(blocks=[block])):
        (call,) = llm.get_tool_calls_from_response(response)
        assert (call.tool_id, call.tool_name, call.tool_kwargs) == ("1", "weather", expected)


def test_a_call_without_an_id_gets_an_empty_one(llm):
    (call,) = llm.get_tool_calls_from_response(message_response(blocks=[ToolCallBlock(tool_name="weather")]))
    assert (call.tool_id, call.tool_kwargs) == ("", {})


# --- calls that are cut off


@pytest.mark.parametrize("method", [*CHATTING, *WITH_TOOLS])
@pytest.mark.parametrize("error_on_no_tool_call", [True, False])
async def test_a_call_that_is_cut_off_is_an_error_at_its_end(scripted_llm, tools, method, error_on_no_tool_call):
    llm = scripted_llm(CALL, max_tokens=30)
    if method in WITH_TOOLS:
        last = (await read(method, getattr(llm, method)(tools, "Hi")))[-1]
    else:
        last = (await ask(llm, method, tools=tools))[-1]
    assert last.raw["finish_reason"] == "length"
    with pytest.raises(IncompleteOutputError, match="cut off after 30 tokens, before its tool call was whole"):
        llm.get_tool_calls_from_response(last, error_on_no_tool_call=error_on_no_tool_call)
    (invalid,) = last.message.additional_kwargs["invalid_tool_calls"]
    assert invalid["text"]
    assert json.dumps(invalid)


@pytest.mark.parametrize("error_on_no_tool_call", [True, False])
@pytest.mark.parametrize("left", ["<tool_call>", '<tool_call>\n{"name": "wea', CALL[:-20], CALL[:-1]])
async def test_a_call_that_is_cut_off_is_never_made(scripted_llm, office, tools, left, error_on_no_tool_call):
    llm = scripted_llm(CALL)
    keywords = {"error_on_no_tool_call": error_on_no_tool_call, "max_tokens": len(llm.load().encode(left))}
    with pytest.raises(IncompleteOutputError):
        llm.predict_and_call(tools, "Hi", **keywords)
    with pytest.raises(IncompleteOutputError):
        await llm.apredict_and_call(tools, "Hi", **keywords)
    assert office.asked == []


def test_a_forced_call_that_is_cut_off_before_its_marker_is_whole_is_incomplete_too(scripted_llm, tools):
    llm = scripted_llm(CALL)
    with pytest.raises(IncompleteOutputError, match="max_tokens"):
        llm.predict_and_call(tools, "Hi", tool_required=True, max_tokens=len(llm.load().encode("<tool_")))
    response = llm.chat_with_tools(tools, "Hi", tool_required=True, max_tokens=1)
    assert response.message.content == ""
    with pytest.raises(IncompleteOutputError, match="max_tokens"):
        llm.get_tool_calls_from_response(response, error_on_no_tool_call=False)


def test_a_whole_call_before_one_that_is_cut_off_counts(scripted_llm, tools):
    llm = scripted_llm(TWO_CALLS)
    max_tokens = len(llm.load().encode(TWO_CALLS)) - 10
    response = llm.chat_with_tools(tools, "Hi", allow_parallel_tool_calls=True, max_tokens=max_tokens)
    assert [call.tool_kwargs for call in llm.get_tool_calls_from_response(response)] == [FORECAST]


def test_text_that_is_cut_off_is_an_answer_without_a_call(scripted_llm, tools):
    llm = scripted_llm("It rains and rains.")
    response = llm.chat_with_tools(tools, "Hi", max_tokens=5)
    assert response.raw["finish_reason"] == "length"
    assert llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []


# --- calls that are made


async def test_predict_and_call_makes_the_call(scripted_llm, office, tools):
    llm = scripted_llm(CALL)
    for answer in (llm.predict_and_call(tools, "Hi"), await llm.apredict_and_call(tools, "Hi")):
        assert answer.response == "2 days of rain in Weimar"
        assert answer.sources[0].raw_input["kwargs"] == FORECAST
    assert office.asked == [("Weimar", 2)] * 2


async def test_predict_and_call_makes_several_calls_where_they_are_allowed(scripted_llm, office, tools):
    llm = scripted_llm(TWO_CALLS)
    keywords = {"allow_parallel_tool_calls": True}
    for answer in (
        llm.predict_and_call(tools, "Hi", **keywords),
        await llm.apredict_and_call(tools, "Hi", **keywords),
    ):
        assert answer.response == "2 days of rain in Weimar\n\n1 days of rain in Jena"
    assert sorted(office.asked) == [("Jena", 1)] * 2 + [("Weimar", 2)] * 2


async def test_predict_and_call_without_a_call_is_an_error_or_the_text(scripted_llm, office, tools):
    llm = scripted_llm("It rains.")
    with pytest.raises(ValueError, match="calls no tool"):
        llm.predict_and_call(tools, "Hi")
    with pytest.raises(ValueError, match="calls no tool"):
        await llm.apredict_and_call(tools, "Hi")
    assert llm.predict_and_call(tools, "Hi", error_on_no_tool_call=False).response == "It rains."
    assert (await llm.apredict_and_call(tools, "Hi", error_on_no_tool_call=False)).response == "It rains."
    assert office.asked == []


async def test_a_tool_that_fails_is_an_error_where_that_is_asked_for(scripted_llm):
    def weather(city: str, days: int = 1) -> str:
        """The weather of a city."""
        raise RuntimeError("no satellite")

    llm, tools = scripted_llm(CALL), [FunctionTool.from_defaults(weather)]
    assert llm.predict_and_call(tools, "Hi").sources[0].is_error
    for error_on_tool_error in (llm.predict_and_call, llm.apredict_and_call):
        with pytest.raises(ValueError, match="no satellite"):
            await read(error_on_tool_error.__name__, error_on_tool_error(tools, "Hi", error_on_tool_error=True))


# --- the way back


def test_calls_and_results_go_back_in_the_chat_format_of_transformers(scripted_llm, tools):
    llm = scripted_llm(TWO_CALLS, "It rains.")
    answer = llm.chat_with_tools(tools, "Hi", allow_parallel_tool_calls=True)
    made = llm.get_tool_calls_from_response(answer)
    results = [
        ChatMessage(role="tool", content="rain", additional_kwargs={"tool_call_id": call.tool_id}) for call in made
    ]
    llm.chat_with_tools(tools, chat_history=[ChatMessage(content="Hi"), answer.message, *results])
    assert requests(llm)[-1].messages == [
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": call.tool_id,
                    "type": "function",
                    "function": {"name": "weather", "arguments": call.tool_kwargs},
                }
                for call in made
            ],
        },
        *({"role": "tool", "content": "rain", "tool_call_id": call.tool_id} for call in made),
    ]


def test_a_message_with_a_call_survives_being_stored(scripted_llm, tools):
    llm = scripted_llm(CALL, "It rains.")
    message = llm.chat_with_tools(tools, "Hi").message
    stored = ChatMessage.model_validate_json(message.model_dump_json())
    llm.chat([ChatMessage(content="Hi"), stored, ChatMessage(content="And?")])
    llm.chat([ChatMessage(content="Hi"), message, ChatMessage(content="And?")])
    again, first = (request.messages for request in requests(llm)[1:])
    assert again == first
    assert first[1]["tool_calls"][0]["function"]["arguments"] == FORECAST
