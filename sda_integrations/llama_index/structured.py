"""Structured prediction: pydantic objects out of answers whose form the grammar enforces, whole and growing.

LlamaIndex's own programs ask for a call of a tool and differ in what they require and in what they read, from sync to
async to streams. All four methods here constrain the text of the answer to the class's JSON schema instead.
"""

import json
import re
from abc import ABC
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import aclosing, closing
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]  # re-exported
from llama_index.core.instrumentation.events.llm import (
    LLMStructuredPredictEndEvent,
    LLMStructuredPredictInProgressEvent,
    LLMStructuredPredictStartEvent,
)
from llama_index.core.program.utils import FlexibleModel, create_flexible_model
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.types import Model, PydanticProgramMode
from pydantic import BaseModel
from pydantic_core import from_json

from sda_integrations.llama_index.fields import SDAFields
from sda_integrations.llama_index.output import object_schema
from sda_integrations.llama_index.responses import refuse_cut_off

_dispatcher = get_dispatcher(__name__)
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_NUMBER_AT_END = re.compile(r"-?\d[-+.\deE]*$")
_OF_PROGRAMS = ("tool_required", "tool_choice", "allow_parallel_tool_calls")


class PredictsObjects(SDAFields, ABC):
    """An LLM's four methods of structured prediction over its four chat methods.

    `pydantic_program_mode` other than DEFAULT leaves them to LlamaIndex's programs.
    """

    @_dispatcher.span
    def structured_predict(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """An object of a pydantic class; the grammar lets the model write nothing else.

        Args:
            output_cls: the class.
            prompt: what to ask.
            llm_kwargs: keywords of the call, e.g. {"alignment": None, "max_tokens": 300}.
            prompt_args: values of the prompt's variables.

        Raises:
            ConfigError: the class is no pydantic model.
            IncompleteOutputError: the answer reached max_tokens before it was whole; its text is in the error.
            ConstraintError: the class's JSON schema cannot be enforced, or is too large.
            ValidationError: the class has rules that its JSON schema does not tell, and the answer breaks one.
        """
        schema = object_schema(output_cls)
        if self.pydantic_program_mode != PydanticProgramMode.DEFAULT:
            found: Model = super().structured_predict(output_cls, prompt, llm_kwargs, **prompt_args)
            return found
        messages = self._asked(output_cls, prompt, prompt_args)
        response = self.chat(messages, **_keywords(schema, llm_kwargs))
        return _told(_whole_object(response, output_cls))

    @_dispatcher.span
    async def astructured_predict(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """`structured_predict` for an event loop."""
        schema = object_schema(output_cls)
        if self.pydantic_program_mode != PydanticProgramMode.DEFAULT:
            found: Model = await super().astructured_predict(output_cls, prompt, llm_kwargs, **prompt_args)
            return found
        messages = self._asked(output_cls, prompt, prompt_args)
        response = await self.achat(messages, **_keywords(schema, llm_kwargs))
        return _told(_whole_object(response, output_cls))

    @_dispatcher.span
    def stream_structured_predict(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Model | FlexibleModel, None, None]:
        """The object as it grows: with all fields optional while it lacks some, and at the end of its class.

        Arguments and errors are those of `structured_predict`. Closing the stream stops the work.
        """
        schema = object_schema(output_cls)
        if self.pydantic_program_mode != PydanticProgramMode.DEFAULT:
            return super().stream_structured_predict(output_cls, prompt, llm_kwargs, **prompt_args)
        messages = self._asked(output_cls, prompt, prompt_args)
        objects = _stream_objects(self.stream_chat(messages, **_keywords(schema, llm_kwargs)), output_cls)
        next(objects)
        return objects

    @_dispatcher.span
    async def astream_structured_predict(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Model | FlexibleModel, None]:
        """`stream_structured_predict` for an event loop: await it, then iterate."""
        schema = object_schema(output_cls)
        if self.pydantic_program_mode != PydanticProgramMode.DEFAULT:
            return await super().astream_structured_predict(output_cls, prompt, llm_kwargs, **prompt_args)
        messages = self._asked(output_cls, prompt, prompt_args)
        responses = await self.astream_chat(messages, **_keywords(schema, llm_kwargs))
        objects = _astream_objects(responses, output_cls)
        await anext(objects)
        return objects

    def _asked(
        self, output_cls: type[BaseModel], prompt: BasePromptTemplate, prompt_args: Mapping[str, Any]
    ) -> list[ChatMessage]:
        _dispatcher.event(
            LLMStructuredPredictStartEvent(output_cls=output_cls, template=prompt, template_args=dict(prompt_args))
        )
        return prompt.format_messages(llm=self, **prompt_args)


def partial_json(text: str) -> Any:
    """The value of JSON text that may break off anywhere, less a number that may go on; None if there is none."""
    if _STRING.sub("", text).count('"') % 2 == 0:
        text = _NUMBER_AT_END.sub("", text)
    try:
        return from_json(text, allow_partial="trailing-strings")
    except ValueError:
        return None


class _GrowingObject:
    """Reads an object out of a JSON text that grows."""

    def __init__(self, output_cls: type[BaseModel]) -> None:
        self._output_cls = output_cls
        self._flexible = create_flexible_model(output_cls)  # which knows no aliases
        self._names = {field.alias: name for name, field in output_cls.model_fields.items()}
        self._value: Any = None

    def read(self, text: str) -> BaseModel | None:
        """The object so far; None where it is the same as before, or cannot be one yet."""
        value = partial_json(text)
        if value is None or value == self._value:
            return None
        self._value = value
        try:
            return self._output_cls.model_validate_json(json.dumps(value))  # a strict class takes dates from JSON alone
        except Exception:  # noqa: BLE001 - a class may have rules of its own, which half an object can break in any way
            if not isinstance(value, dict):
                return None
        return self._flexible.model_validate({self._names.get(key, key): item for key, item in value.items()})


def _keywords(schema: Mapping[str, object], llm_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """The keywords of the chat call. What LlamaIndex's programs drop is dropped here too."""
    given = {name: value for name, value in (llm_kwargs or {}).items() if name not in _OF_PROGRAMS}
    return {**given, "response_format": schema}


def _whole_object(response: ChatResponse, output_cls: type[Model]) -> Model:
    refuse_cut_off(response, f"the {output_cls.__name__}")
    return output_cls.model_validate_json(response.message.content or "")


def _told(output: Model) -> Model:
    _dispatcher.event(LLMStructuredPredictEndEvent(output=output))
    return output


def _stream_objects(
    responses: Generator[ChatResponse, None, None], output_cls: type[BaseModel]
) -> Generator[Any, None, None]:
    growing, latest = _GrowingObject(output_cls), None
    try:
        with closing(responses):
            yield None  # up to here it is brought before it is handed out, so that a close at once ends it as well
            for response in responses:
                if (found := _object_of(response, growing, output_cls)) is not None:
                    yield (latest := found)
    except GeneratorExit:  # whoever reads it has enough
        pass
    _dispatcher.event(LLMStructuredPredictEndEvent(output=latest))


async def _astream_objects(
    responses: AsyncGenerator[ChatResponse, None], output_cls: type[BaseModel]
) -> AsyncGenerator[Any, None]:
    growing, latest = _GrowingObject(output_cls), None
    try:
        async with aclosing(responses):
            yield None
            async for response in responses:
                if (found := _object_of(response, growing, output_cls)) is not None:
                    yield (latest := found)
    except GeneratorExit:
        pass
    _dispatcher.event(LLMStructuredPredictEndEvent(output=latest))


def _object_of(response: ChatResponse, growing: _GrowingObject, output_cls: type[BaseModel]) -> BaseModel | None:
    """What a response shows of the object: the whole one at the end, None where there is nothing new."""
    if response.raw is not None:
        return _whole_object(response, output_cls)
    found = growing.read(response.message.content or "")
    if found is not None:
        _dispatcher.event(LLMStructuredPredictInProgressEvent(output=found))
    return found
