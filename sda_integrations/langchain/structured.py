"""Structured output: parsers that tell a whole answer from one that was cut off."""

from operator import itemgetter
from typing import Any

from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import LanguageModelInput
from langchain_core.output_parsers import BaseOutputParser, JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.pydantic import is_basemodel_subclass

from sda_engine.errors import ConfigError

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
        return PydanticToolsParser(tools=[schema], first_tool_only=True)
    return JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)


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


class WholeJsonParser(JsonOutputParser):
    """JsonOutputParser repairs what was cut off; at the end of an answer this one refuses it."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """The JSON value; with `partial` as far as it got.

        Raises:
            OutputParserException: the answer reached its token limit before the JSON was whole.
        """
        _refuse_cut_off(result, partial=partial)
        return super().parse_result(result, partial=partial)


class WholePydanticParser(PydanticOutputParser[Any]):
    """The same for pydantic objects."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """The object; with `partial` as soon as it validates.

        Raises:
            OutputParserException: the answer does not validate, or reached its token limit before it was whole.
        """
        _refuse_cut_off(result, partial=partial)
        return super().parse_result(result, partial=partial)


def _refuse_cut_off(result: list[Generation], *, partial: bool) -> None:
    generation = result[0]
    if partial or not isinstance(generation, ChatGeneration):
        return
    if generation.message.response_metadata.get("finish_reason") == "length":
        raise OutputParserException(
            "The answer reached its token limit before the JSON was whole. Raise max_tokens, or make the schema "
            "smaller.",
            llm_output=generation.text,
        )
