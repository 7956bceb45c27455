"""Structured output: parsers that tell a whole answer from one that was cut off."""

import json
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from operator import itemgetter
from typing import Any, TypeVar

from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.output_parsers import (
    BaseCumulativeTransformOutputParser,
    BaseOutputParser,
    JsonOutputParser,
)
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.pydantic import TBaseModel  # noqa: F401 - mypy's pydantic plugin looks for it here
from pydantic import SkipValidation

from sda_engine.errors import ConfigError, IncompleteOutputError
from sda_engine.settings import shown
from sda_integrations.langchain.schemas import json_reader

T = TypeVar("T")

_WHOLE = ("stop", "tool_calls")  # finish reasons of an answer that is all there
METHODS = ("json_schema", "function_calling", "json_mode")


def check_method(method: str) -> None:
    """Refuse a method of structured output that does not exist.

    Raises:
        ConfigError: it is none of METHODS.
    """
    if method not in METHODS:
        raise ConfigError(f"method cannot be {method!r}: it must be one of {', '.join(METHODS)}.")


def text_parser(schema: Any) -> BaseOutputParser[Any]:
    """Reads an answer whose text is JSON: to an object of the schema's type, or to a dict.

    Raises:
        ConfigError: no object of the type can be made out of JSON.
    """
    return WholeTextParser(read=json_reader(schema))


def call_parser(schema: Any, name: str) -> BaseOutputParser[Any]:
    """Reads an answer that is a call of a tool with the schema's fields as arguments.

    Raises:
        ConfigError: no object of the type can be made out of JSON.
    """
    return WholeCallParser(read=json_reader(schema), key_name=name, first_tool_only=True)


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


class CutOffError(IncompleteOutputError, OutputParserException):
    """An answer ended before the object in it was whole: an error of the engine's, and a parsing error to LangChain."""

    def __init__(self, message: str, *, partial: str) -> None:
        OutputParserException.__init__(self, message, llm_output=partial)
        self.partial = partial


class _WholeParser(BaseCumulativeTransformOutputParser[Any]):
    """LangChain's parsers repair JSON that was cut off, or give None; at the end of an answer these refuse it.

    Attributes:
        read: JSON text to an object; None where the answer stays as it is.
    """

    read: SkipValidation[Callable[[str], Any] | None] = None

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """What the parser makes of an answer; with `partial` of one that goes on, None where it cannot be read yet.

        Raises:
            CutOffError: the answer ended before it was whole.
            OutputParserException: it cannot be read, or breaks a rule of its class.
        """
        generation = result[0]
        if not partial and isinstance(generation, ChatGeneration):
            _refuse_cut_off(generation.message)
        try:
            value = super().parse_result(result, partial=partial)
            return value if self.read is None or value is None else self.read(json.dumps(value))
        except OutputParserException:
            raise
        except Exception as error:
            if partial:  # a class may have rules of its own, which half an object can break in any way
                return None
            if not isinstance(error, ValueError):  # pydantic's, and of numbers that Python does not read
                raise
            text = generation.text
            raise OutputParserException(f"The answer {shown(text)} cannot be read: {error}", llm_output=text) from error

    def _transform(self, input: Iterator[str | BaseMessage]) -> Iterator[Any]:
        chunks: list[str | BaseMessage] = []
        latest = None
        for latest in super()._transform(_keeping(input, chunks)):
            yield latest
        yield from self._end(chunks, latest)

    async def _atransform(self, input: AsyncIterator[str | BaseMessage]) -> AsyncIterator[Any]:
        chunks: list[str | BaseMessage] = []
        latest = None
        async for latest in super()._atransform(_akeeping(input, chunks)):
            yield latest
        for value in self._end(chunks, latest):
            yield value

    def _end(self, chunks: list[str | BaseMessage], latest: Any) -> list[Any]:
        """What the end of a stream shows beyond the latest value. An answer that is not whole is refused."""
        if not chunks:
            return []
        answer: Any = chunks[0] if len(chunks) == 1 else chunks[0] + chunks[1:]  # type: ignore[operator]
        whole = self.parse_result([ChatGeneration(message=answer)])
        return [] if whole is None or whole == latest else [whole]


class WholeTextParser(_WholeParser, JsonOutputParser):
    """JSON text to an object of a type, or to a dict."""


class WholeCallParser(_WholeParser, JsonOutputKeyToolsParser):
    """A tool call to an object of a type, or to its arguments."""


def _refuse_cut_off(message: BaseMessage) -> None:
    reason = message.response_metadata.get("finish_reason")
    if reason == "length":
        raise CutOffError(
            "The answer reached its token limit before the JSON was whole. Raise max_tokens, or make the schema "
            "smaller.",
            partial=message.text,
        )
    if reason not in (None, *_WHOLE):
        raise CutOffError(f"The answer ended before the JSON was whole: {reason!r}. Ask again.", partial=message.text)
    if isinstance(message, AIMessage) and message.invalid_tool_calls:
        call = message.invalid_tool_calls[0]
        raise OutputParserException(
            f"The answer is a call that cannot be read: {call['error']}", llm_output=str(call["args"])
        )
    if isinstance(message, AIMessage) and message.invalid_tool_calls and not message.tool_calls:
        call = message.invalid_tool_calls[0]
        raise OutputParserException(f"{call['error']} Ask again.", llm_output=call["args"])


def _keeping(values: Iterable[T], kept: list[T]) -> Iterator[T]:
    """The values, all of which are kept in a list."""
    for value in values:
        kept.append(value)
        yield value


async def _akeeping(values: AsyncIterable[T], kept: list[T]) -> AsyncIterator[T]:
    async for value in values:
        kept.append(value)
        yield value
