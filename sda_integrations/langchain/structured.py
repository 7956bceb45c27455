"""Structured output: parsers that tell a whole answer from one that was cut off."""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from operator import itemgetter
from typing import Any, TypeVar

from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.output_parsers import (
    BaseCumulativeTransformOutputParser,
    BaseOutputParser,
    JsonOutputParser,
    PydanticOutputParser,
)
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.pydantic import TBaseModel, is_basemodel_subclass

from sda_engine.errors import ConfigError

T = TypeVar("T")

METHODS = ("json_schema", "function_calling", "json_mode")


def check_method(method: str) -> None:
    """Refuse a method of structured output that does not exist.

    Raises:
        ConfigError: it is none of METHODS.
    """
    if method not in METHODS:
        raise ConfigError(f"method cannot be {method!r}: it must be one of {', '.join(METHODS)}.")


def text_parser(schema: Any) -> BaseOutputParser[Any]:
    """Reads an answer whose text is JSON: to a pydantic object for a pydantic schema, else to a dict."""
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        return WholePydanticParser(pydantic_object=schema)
    return WholeJsonParser()


def call_parser(schema: Any, name: str) -> BaseOutputParser[Any]:
    """Reads an answer that is a call of a tool with the schema's fields as arguments."""
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        return WholePydanticCallParser(tools=[schema], first_tool_only=True)
    return WholeCallParser(key_name=name, first_tool_only=True)


def parsed(
    model: Runnable[LanguageModelInput, Any], parser: BaseOutputParser[Any], *, include_raw: bool
) -> Runnable[LanguageModelInput, Any]:
    """A model and the parser of its answers; with `include_raw` the answer and a parsing error are kept beside."""
    if not include_raw:
        return model | parser
    with_error: Runnable[Any, Any] = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
    )
    without: Runnable[Any, Any] = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=model) | with_error.with_fallbacks([without], exception_key="parsing_error")


class _RefusesCutOff(BaseCumulativeTransformOutputParser[Any]):
    """LangChain's parsers repair JSON that was cut off, or give None; at the end of an answer these refuse it."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """What the parser makes of an answer; with `partial` of one that goes on.

        Raises:
            OutputParserException: the answer reached its token limit before it was whole, or does not validate.
        """
        generation = result[0]
        if not partial and isinstance(generation, ChatGeneration):
            _refuse_cut_off(generation.message)
        return super().parse_result(result, partial=partial)

    def _transform(self, input: Iterator[str | BaseMessage]) -> Iterator[Any]:
        last: list[str | BaseMessage] = []
        yield from super()._transform(_remembering(input, last))
        _refuse_cut_off(*last)

    async def _atransform(self, input: AsyncIterator[str | BaseMessage]) -> AsyncIterator[Any]:
        last: list[str | BaseMessage] = []
        async for value in super()._atransform(_aremembering(input, last)):
            yield value
        _refuse_cut_off(*last)


class WholeJsonParser(_RefusesCutOff, JsonOutputParser):
    """JSON text to a dict."""


class WholePydanticParser(_RefusesCutOff, PydanticOutputParser[TBaseModel]):
    """JSON text to a pydantic object."""


class WholeCallParser(_RefusesCutOff, JsonOutputKeyToolsParser):
    """A tool call to its arguments."""


class WholePydanticCallParser(_RefusesCutOff, PydanticToolsParser):
    """A tool call to a pydantic object."""


def _refuse_cut_off(message: str | BaseMessage = "") -> None:
    if isinstance(message, BaseMessage) and message.response_metadata.get("finish_reason") == "length":
        raise OutputParserException(
            "The answer reached its token limit before the JSON was whole. Raise max_tokens, or make the schema "
            "smaller.",
            llm_output=message.text,
        )
    if isinstance(message, AIMessage) and message.invalid_tool_calls and not message.tool_calls:
        call = message.invalid_tool_calls[0]
        raise OutputParserException(f"{call['error']} Ask again.", llm_output=call["args"])


def _remembering(values: Iterable[T], last: list[T]) -> Iterator[T]:
    """The values, the latest of which is kept in a list of one."""
    for value in values:
        last[:] = [value]
        yield value


async def _aremembering(values: AsyncIterable[T], last: list[T]) -> AsyncIterator[T]:
    async for value in values:
        last[:] = [value]
        yield value
