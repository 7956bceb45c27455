"""A decoded answer on its way out: held against the form that was asked for."""

import json
from dataclasses import replace

from sda_engine.decoding import DecodedText
from sda_engine.output import InvalidToolCall, Output, ToolCall


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


def _invalid_call(index: int, call: ToolCall, misfit: str) -> InvalidToolCall:
    function = call["function"]
    return InvalidToolCall(
        index=index,
        id=call["id"],
        name=function["name"],
        text=json.dumps(function, ensure_ascii=False),
        error=f"The arguments do not fit the schema of {function['name']!r}: {misfit}.",
    )
