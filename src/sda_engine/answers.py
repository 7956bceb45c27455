"""A decoded answer on its way out: held against the form that was asked for, and given out whole."""

import json
from dataclasses import replace

from sda_engine.decoding import DecodedText
from sda_engine.output import InvalidToolCall, Output, ToolCall
from sda_engine.results import Completion, Piece, ToolCallDelta


def held_against(output: Output, answer: DecodedText) -> DecodedText:
    """An answer held against what its grammar could not enforce: calls that do not fit are invalid ones.

    Raises:
        InvalidOutputError: the text does not fit.
    """
    if answer.finish_reason == "stop" and not answer.invalid_tool_calls and not output.must_call:
        output.check_text(answer.text)
    misfits = [output.misfit_of_call(call["function"]) for call in answer.tool_calls]
    if not any(misfits):
        return answer
    valid = tuple(call for call, misfit in zip(answer.tool_calls, misfits, strict=True) if misfit is None)
    invalid = tuple(
        _invalid_call(index, call, misfit)
        for index, (call, misfit) in enumerate(zip(answer.tool_calls, misfits, strict=True))
        if misfit is not None
    )
    reason = answer.finish_reason if valid or answer.finish_reason != "tool_calls" else "stop"
    invalid = (*invalid, *answer.invalid_tool_calls)
    return replace(answer, tool_calls=valid, invalid_tool_calls=invalid, finish_reason=reason)


def rated_text(base: DecodedText) -> str:
    """What an evaluator reads of a base response: its text, and its tool calls as JSON."""
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in base.tool_calls]
    return "\n".join([base.text, *calls] if base.text else calls)


def whole_piece(answer: DecodedText, completion: Completion) -> Piece:
    """The one piece of an answer that nobody saw growing."""
    calls = tuple(_whole_call(place, call) for place, call in enumerate(completion.tool_calls))
    return Piece(
        answer.text,
        answer.reasoning,
        calls,
        answer.token_ids,
        answer.logprobs,
        completion=completion,
        trace=completion.trace.tokens,
    )


def _invalid_call(index: int, call: ToolCall, misfit: str) -> InvalidToolCall:
    function = call["function"]
    return InvalidToolCall(
        index=index,
        id=call["id"],
        name=function["name"],
        text=json.dumps(function, ensure_ascii=False),
        error=f"The arguments do not fit the schema of {function['name']!r}: {misfit}.",
    )


def _whole_call(index: int, call: ToolCall) -> ToolCallDelta:
    function = call["function"]
    return ToolCallDelta(index, call["id"], function["name"], json.dumps(function["arguments"], ensure_ascii=False))
