"""One answer while it grows: from its text to what is said, thought and called, piece by piece."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from transformers.utils.chat_parsing import ResponseParser

from sda_engine.config import Region
from sda_engine.decoding.detokenizer import StopChecker
from sda_engine.decoding.regions import Regions
from sda_engine.output import FunctionCall, InvalidToolCall, ToolCall, new_call_id
from sda_engine.results import Delta, ToolCallDelta

_NAME_AND_ARGUMENTS = re.compile(
    r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
_MAYBE_END = "} \t\r\n"


@dataclass
class _OpenCall:
    """A call that is being written: its raw text, where its arguments start, how much of them has been given out."""

    index: int
    marker: str
    id: str = field(default_factory=new_call_id)
    raw: str = ""
    name: str | None = None
    start: int = 0
    given: int = 0
    in_string: bool = False
    escaped: bool = False

    def escape(self, char: str) -> str:
        """A character of the call's JSON; inside a string the first sign of the end marker as its escape."""
        if self.escaped:
            self.escaped = False
        elif self.in_string and char == "\\":
            self.escaped = True
        elif char == '"':
            self.in_string = not self.in_string
        elif self.in_string and char == self.marker:
            return f"\\u{ord(char):04x}"
        return char


class AnswerParser:
    """Sorts the text of an answer into content, reasoning and tool calls.

    Args:
        response_template: how to read it; None for text alone.
        prefix: what the prompt has already written of the answer, e.g. an opening "<think>".
        stop: strings that end the answer when they appear in its content.
        call_end: the marker after a call.
        must_call: whether the answer has to be a call.
        text_region: what its text counts as.
    """

    def __init__(
        self,
        response_template: Mapping[str, object] | None,
        prefix: str,
        stop: StopChecker,
        *,
        call_end: str = "",
        must_call: bool = False,
        text_region: Region = "text",
    ) -> None:
        self._parser = None if response_template is None else ResponseParser(dict(response_template), prefix=prefix)
        self._stop = stop
        self._marker = call_end[:1]
        self._must_call = must_call
        self._regions = Regions(response_template, prefix, text_region)
        self._text_region = text_region
        self._call: _OpenCall | None = None
        self.tool_calls: list[ToolCall] = []
        self.invalid_tool_calls: list[InvalidToolCall] = []

    @property
    def stopped(self) -> bool:
        """Whether a stop string has been found."""
        return self._stop.stopped

    @property
    def region(self) -> Region:
        """What the next token belongs to. A marker belongs to the region in which it begins."""
        return self._regions.here if self._parser is not None else self._text_region

    @property
    def regions(self) -> frozenset[Region]:
        """All regions that this answer may have."""
        return self._regions.possible

    def push(self, text: str) -> Delta:
        """What became certain with a text."""
        if self._parser is None:
            return Delta(text=self._stop.push(text))
        delta, fed = Delta(), ""
        for char in text:  # one at a time, since a marker inside the JSON of a call is no marker
            if self._parser is None:
                break
            char = self._call.escape(char) if self._call is not None else char
            fed += char
            try:
                delta += self._read(self._parser.feed(char))
            except ValueError as error:
                delta += self._give_up(error)
        self._regions.push(fed)
        return delta

    def flush(self) -> Delta:
        """What was held back, at the end of the answer. An unfinished call becomes an invalid one."""
        delta = Delta()
        if self._parser is not None:
            try:
                delta = self._read(self._parser.finalize()[1])
            except ValueError as error:
                delta = self._give_up(error)
        delta += Delta(text="" if self.stopped else self._stop.flush())
        if self._must_call and not self.tool_calls and not self.invalid_tool_calls:  # its marker was cut off
            delta = Delta(reasoning=delta.reasoning) + self._give_up(ValueError("The call did not begin."))
        return delta

    def _read(self, events: list[dict[str, object]]) -> Delta:
        delta = Delta()
        for event in events:
            place = event["field"]
            if place == "tool_calls":
                delta += self._read_call(event)
            elif event["type"] == "region_chunk" and place == "content":
                delta += Delta(text=self._stop.push(str(event["text"])))
            elif event["type"] == "region_chunk" and place in ("reasoning_content", "reasoning", "thinking"):
                delta += Delta(reasoning=str(event["text"]))
        return delta

    def _read_call(self, event: Mapping[str, object]) -> Delta:
        if self._call is None:
            self._call = self._open_call()
        call = self._call
        if event["type"] == "region_chunk":
            call.raw += str(event["text"])
            return self._arguments_so_far(call)
        if event["type"] != "region_close":
            return Delta()
        function = _as_function_call(event["value"])
        self._call = None
        self.tool_calls.append(ToolCall(type="function", id=call.id, function=function))
        if call.name is None:
            return _delta(call.index, call.id, function["name"], json.dumps(function["arguments"], ensure_ascii=False))
        whole = call.raw[call.start :].rstrip().removesuffix("}").rstrip()
        return _delta(call.index, None, None, whole[call.given :])

    def _arguments_so_far(self, call: _OpenCall) -> Delta:
        """Name and arguments as far as they are certain: closing braces at the end may be the call's, not theirs."""
        first = call.name is None
        if first:
            match = _NAME_AND_ARGUMENTS.match(call.raw)
            if match is None:
                return Delta()
            call.name, call.start = str(json.loads(match[1])), match.end()
        certain = len(call.raw.rstrip(_MAYBE_END)) - call.start
        new = call.raw[call.start + call.given : call.start + certain] if certain > call.given else ""
        call.given += len(new)
        if not first and not new:
            return Delta()
        return _delta(call.index, call.id if first else None, call.name if first else None, new)

    def _give_up(self, error: ValueError) -> Delta:
        """What the model wrote as a call is none, or it was cut off in the middle."""
        call = self._call or self._open_call()  # one that ends right after its marker has not been told of
        self._call = self._parser = None
        self.invalid_tool_calls.append(
            InvalidToolCall(index=call.index, id=call.id, name=call.name, text=call.raw, error=str(error))
        )
        return Delta()

    def _open_call(self) -> _OpenCall:
        return _OpenCall(index=len(self.tool_calls), marker=self._marker)


def _delta(index: int, call_id: str | None, name: str | None, arguments: str) -> Delta:
    return Delta(tool_calls=(ToolCallDelta(index, call_id, name, arguments),))


def _as_function_call(value: object) -> FunctionCall:
    function = value.get("function", value) if isinstance(value, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ValueError(f"a call without a name: {value!r}")
    arguments = function.get("arguments", function.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(arguments, Mapping):
        raise ValueError(f"arguments that are no object: {arguments!r}")
    return FunctionCall(name=function["name"], arguments=dict(arguments))
