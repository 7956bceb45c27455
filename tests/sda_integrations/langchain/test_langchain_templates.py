"""ChatSDA on models whose chat template refuses turns, and the values for a template's own variables."""

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from sda_engine.errors import ConfigError
from sda_engine.evaluators import SelfRatingEvaluator
from sda_engine.testing import ScriptedEngine, call_text
from sda_integrations.langchain import ChatSDA, SDAMiddleware
from tests.families import TEMPLATES
from tests.sda_integrations.templates import NO_THOUGHT, Person, add


def test_structured_output_by_every_method(template):
    scripts = {
        "json_schema": '{"age": 3}',
        "json_mode": '{"age": 3}',
        "function_calling": call_text("Person", {"age": 3}),
    }
    for method, script in scripts.items():
        chat = ChatSDA(engine=ScriptedEngine(script, chat_template=template), alignment="honesty")
        assert chat.with_structured_output(Person, method=method).invoke("How old?") == Person(age=3)


async def test_an_agent_with_a_tool_and_a_system_prompt(template):
    engine = ScriptedEngine([call_text("add", {"a": 1, "b": 1}), "It is 2."], chat_template=template)
    agent = create_agent(ChatSDA(engine=engine, alignment="honesty"), [add], system_prompt="Be brief.")
    state = await agent.ainvoke({"messages": [HumanMessage("1 + 1?")]})
    assert [message.text for message in state["messages"]][2:] == ["2", "It is 2."]


def test_two_system_messages_two_results_and_two_questions(template):
    call = {"name": "add", "args": {"a": 1, "b": 1}, "type": "tool_call"}
    messages = [
        SystemMessage("Be brief."),
        SystemMessage("Be kind."),
        HumanMessage("Hi"),
        HumanMessage("1 + 1?"),
        AIMessage("", tool_calls=[{**call, "id": "1"}, {**call, "id": "2"}]),
        ToolMessage("2", tool_call_id="1"),
        ToolMessage("2", tool_call_id="2"),
        HumanMessage("Well?"),
    ]
    chat = ChatSDA(engine=ScriptedEngine("2.", chat_template=template), evaluator=SelfRatingEvaluator())
    for model in (chat, chat.bind_tools([add])):
        assert model.invoke(messages, alignment="honesty").text == "2."


def prompt_tokens(model, **keywords):
    return model.invoke("Hi", max_tokens=1, **keywords).usage_metadata["input_tokens"]


def test_template_kwargs_come_from_field_call_binding_and_middleware(thinker):
    plain = prompt_tokens(ChatSDA(engine=thinker))
    chat = ChatSDA(engine=thinker, template_kwargs=NO_THOUGHT)
    longer = prompt_tokens(chat)
    assert longer > plain
    assert prompt_tokens(ChatSDA(engine=thinker), template_kwargs=NO_THOUGHT) == longer
    assert prompt_tokens(ChatSDA(engine=thinker).bind(template_kwargs=NO_THOUGHT)) == longer
    assert prompt_tokens(chat, template_kwargs={"enable_thinking": True}) == plain
    counted = [model.get_num_tokens_from_messages([HumanMessage("Hi")]) for model in (ChatSDA(engine=thinker), chat)]
    assert counted == [plain, longer]
    engine = ScriptedEngine("Hi", chat_template=TEMPLATES["Qwen 3"][1])
    agent = create_agent(ChatSDA(engine=engine), [], middleware=[SDAMiddleware(None, template_kwargs=NO_THOUGHT)])
    agent.invoke({"messages": [HumanMessage("Hi")]})
    assert engine.requests[-1].template_kwargs == NO_THOUGHT


def test_template_kwargs_identify_the_model_and_the_call(thinker):
    chat, other = ChatSDA(engine=thinker), ChatSDA(engine=thinker, template_kwargs=NO_THOUGHT)
    keys = {chat._get_llm_string(), other._get_llm_string()}
    assert len(keys) == 2
    assert chat._get_llm_string(template_kwargs=NO_THOUGHT) in keys


@pytest.mark.parametrize("given", [{"a": [1]}, "{{ 1 }}", {"a": float("nan")}])
def test_values_that_are_not_plain_are_refused_at_construction(given, thinker):
    with pytest.raises(ConfigError, match="template_kwargs"):
        ChatSDA(engine=thinker, template_kwargs=given)


def test_names_that_the_template_has_not_are_refused_at_the_call(thinker):
    with pytest.raises(ConfigError, match="one of: enable_thinking"):
        ChatSDA(engine=thinker, template_kwargs={"messages": "x"}).invoke("Hi")
