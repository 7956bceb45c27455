"""The engine's Completions -> Inspect's ModelOutput."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessageAssistant,
    Content,
    ContentReasoning,
    ContentText,
    Logprob,
    Logprobs,
    ModelOutput,
    ModelUsage,
    StopReason,
    TopLogprob,
)
from inspect_ai.tool import ToolCall

from sda_engine.output import InvalidToolCall
from sda_engine.results import Completion, GeneratedTokenLogprobs, TokenLogprob, TraceToken
from sda_integrations.inspect.stages import Stages


@dataclass(frozen=True)
class Answer:
    """One answer of the engine, and how long it took."""

    completion: Completion
    stages: Stages


def to_model_output(
    model: str,
    answers: Sequence[Answer],
    *,
    max_new_tokens: int,
    count_tokens: Callable[[str], int],
    trace: bool,
    seconds: float,
) -> ModelOutput:
    """One output with a choice for each answer.

    `metadata["sda"]` holds SDA's figures of the first choice, see `sda_metadata`; with several choices,
    `metadata["sda_choices"]` holds those of each.

    Args:
        model: the name that the output calls the model by.
        answers: at least one.
        max_new_tokens: the limit that they were decoded under: a shorter answer that reached a limit filled the window.
        count_tokens: tokens of a text, for those of a thought.
        trace: whether the metadata holds a record of every token.
        seconds: that the call took.
    """
    figures = [sda_metadata(answer, trace=trace) for answer in answers]
    usages = [to_usage(answer.completion, count_tokens) for answer in answers]
    return ModelOutput(
        model=model,
        choices=[_choice(answer.completion, model, max_new_tokens) for answer in answers],
        usage=sum(usages[1:], start=usages[0]),
        input_context_tokens=answers[0].completion.usage.prompt_tokens,
        time=seconds,
        metadata={"sda": figures[0], **({"sda_choices": figures} if len(figures) > 1 else {})},
    )


def sda_metadata(answer: Answer, *, trace: bool) -> dict[str, object]:
    """SDA's own figures as plain JSON.

    Beside `Completion.sda_metadata`: all counts of tokens; `seconds`, by stage; `judge_calls`; `warnings` of the guard;
    and `tokens`, where a trace is wanted, with one {"text", "divergence", "changed"} for each token of the answer:
    divergence in nats, and whether the base context's likeliest token is another one. Of a token whose text is "",
    inside a character of several tokens or at the end, this cannot be told: it counts as not changed.
    """
    completion, stages = answer.completion, answer.stages
    usage = completion.usage
    return {
        **completion.sda_metadata(),
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "base_response_tokens": usage.base_response_tokens,
        "dropped_tokens": usage.dropped_tokens,
        "cached_prompt_tokens": usage.cached_prompt_tokens,
        "seconds": {"base_response": stages.base_response, "judge": stages.judge, "answer": stages.answer},
        "judge_calls": stages.judge_calls,
        "warnings": [asdict(warning) for warning in completion.trace.warnings],
        **({"tokens": [_token(token) for token in completion.trace.tokens]} if trace else {}),
    }


def to_usage(completion: Completion, count_tokens: Callable[[str], int]) -> ModelUsage:
    """Token counts in Inspect's terms.

    `input_tokens` leaves out those that an earlier request had computed, which are `input_tokens_cache_read`. A base
    response and revisions that are not the answer are text that the model generated and nobody sees, as a thought is:
    they are part of `output_tokens`, and so count against limits. `reasoning_tokens` are those of the thought's text.
    """
    usage = completion.usage
    cached = usage.cached_prompt_tokens
    return ModelUsage(
        input_tokens=usage.prompt_tokens - cached,
        input_tokens_cache_read=cached or None,
        output_tokens=usage.completion_tokens + usage.base_response_tokens + usage.dropped_tokens,
        total_tokens=usage.total_tokens,
        reasoning_tokens=count_tokens(completion.reasoning) if completion.reasoning else None,
    )


def _choice(completion: Completion, model: str, max_new_tokens: int) -> ChatCompletionChoice:
    calls = [
        ToolCall(id=call["id"], function=call["function"]["name"], arguments=dict(call["function"]["arguments"]))
        for call in completion.tool_calls
    ]
    calls += map(_invalid_call, completion.invalid_tool_calls)
    return ChatCompletionChoice(
        message=ChatMessageAssistant(
            content=_content(completion), tool_calls=calls or None, model=model, source="generate"
        ),
        stop_reason=_stop_reason(completion, max_new_tokens),
        logprobs=None
        if completion.logprobs is None
        else Logprobs(content=[_logprob(place) for place in completion.logprobs]),
    )


def _content(completion: Completion) -> str | list[Content]:
    if not completion.reasoning:
        return completion.text
    return [ContentReasoning(reasoning=completion.reasoning), ContentText(text=completion.text)]


def _invalid_call(call: InvalidToolCall) -> ToolCall:
    """A call that Inspect does not run, but answers with its error, so that the model can try again."""
    error = f"{call['error']} What there is of the call: {call['text']}"
    return ToolCall(id=call["id"], function=call["name"] or "unknown", arguments={}, parse_error=error)


def _stop_reason(completion: Completion, max_new_tokens: int) -> StopReason:
    if completion.finish_reason == "length":
        return "max_tokens" if completion.usage.completion_tokens >= max_new_tokens else "model_length"
    return completion.finish_reason


def _logprob(place: GeneratedTokenLogprobs) -> Logprob:
    chosen = place.chosen
    top = [TopLogprob(token=one.text, logprob=one.logprob, bytes=_bytes(one)) for one in place.top]
    return Logprob(token=chosen.text, logprob=chosen.logprob, bytes=_bytes(chosen), top_logprobs=top or None)


def _bytes(token: TokenLogprob) -> list[int] | None:
    # A token that is only part of a character decodes to U+FFFD: its bytes are unknown here
    return None if "\N{REPLACEMENT CHARACTER}" in token.text else list(token.text.encode())


def _token(token: TraceToken) -> dict[str, object]:
    changed = bool(token.text) and bool(token.base) and token.base[0].text != token.text
    return {"text": token.text, "divergence": token.divergence, "changed": changed}
