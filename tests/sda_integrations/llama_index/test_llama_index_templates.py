"""SDALLM on models whose chat template refuses turns, and the values for a template's own variables."""

import pytest
from llama_index.core.agent.workflow import FunctionAgent, ReActAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate

from sda_engine.errors import ConfigError
from sda_engine.testing import call_text
from sda_integrations.llama_index import SDALLM, call_settings
from tests.sda_integrations.templates import NO_THOUGHT, Person, add

pytestmark = [  # LlamaIndex's workflows
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning"),
]


@pytest.mark.parametrize("mode", ["compact", "refine", "tree_summarize"])
def test_query_engines_answer(template, mode, index, scripted_llm):
    llm = scripted_llm("At nine.", chat_template=template, alignment="honesty", system_prompt="Be brief.")
    assert str(index.as_query_engine(llm=llm, response_mode=mode).query("When does it open?")) == "At nine."


def test_objects_are_predicted(template, scripted_llm):
    llm = scripted_llm('{"age": 3}', chat_template=template, system_prompt="Be brief.")
    assert llm.structured_predict(Person, PromptTemplate("How old?")) == Person(age=3)


async def test_a_function_agent_makes_parallel_calls(template, scripted_llm, make_memory):
    both = "\n".join(call_text("add", {"a": number, "b": 1}) for number in (1, 2))
    llm = scripted_llm(both, "2 and 3.", chat_template=template, alignment="honesty")
    agent = FunctionAgent(llm=llm, tools=[add], system_prompt="Be brief.")
    assert str(await agent.run("1 + 1, and 2 + 1?", memory=make_memory(llm))) == "2 and 3."


async def test_a_react_agent_reasons(template, scripted_llm, make_memory):
    steps = (
        'Thought: I add.\nAction: add\nAction Input: {"a": 1, "b": 1}',
        "Thought: I can answer without using any more tools.\nAnswer: 2",
    )
    llm = scripted_llm(*steps, chat_template=template)
    assert str(await ReActAgent(llm=llm, tools=[add]).run("1 + 1?", memory=make_memory(llm))) == "2"


def prompt_tokens(llm, **keywords):
    return llm.chat([ChatMessage("Hi")], max_tokens=1, **keywords).raw["usage"]["prompt_tokens"]


def test_template_kwargs_come_from_field_call_and_block(thinker):
    plain, llm = SDALLM(engine=thinker), SDALLM(engine=thinker, template_kwargs=NO_THOUGHT)
    shorter, longer = prompt_tokens(plain), prompt_tokens(llm)
    assert shorter < longer
    assert prompt_tokens(plain, template_kwargs=NO_THOUGHT) == longer
    with call_settings(template_kwargs=NO_THOUGHT):
        assert prompt_tokens(plain) == longer
        assert prompt_tokens(plain, template_kwargs={"enable_thinking": True}) == shorter


def test_template_kwargs_are_told_and_survive_a_round_trip(thinker):
    llm = SDALLM(engine=thinker, template_kwargs=NO_THOUGHT)
    assert llm.to_payload()["template_kwargs"] == NO_THOUGHT
    assert SDALLM.from_dict(llm.to_dict()).template_kwargs == NO_THOUGHT


def test_what_the_template_does_not_name_is_refused(thinker):
    with pytest.raises(ConfigError, match="template_kwargs"):
        SDALLM(engine=thinker, template_kwargs={"a": []})
    with pytest.raises(ConfigError, match="one of: enable_thinking"):
        SDALLM(engine=thinker).chat([ChatMessage("Hi")], template_kwargs={"tools": "x"})
