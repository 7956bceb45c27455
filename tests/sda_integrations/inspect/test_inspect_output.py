"""Completions as Inspect's outputs."""

from dataclasses import replace

import pytest
from inspect_ai.model import ContentReasoning, ContentText, ModelUsage

from sda_engine import Completion, Trace, Usage
from sda_engine.results import Candidate, GeneratedTokenLogprobs, TokenLogprob, TraceToken, TraceWarning
from sda_integrations.inspect.output import Answer, to_model_output
from sda_integrations.inspect.stages import Stages

STAGES = Stages(base_response=1.0, judge=2.0, answer=3.0, judge_calls=1)


def token(text, likeliest, divergence=0.25) -> TraceToken:
    base = (Candidate(likeliest, 0.5),) if likeliest is not None else ()
    return TraceToken(token_id=1, text=text, divergence=divergence, temperature=0.5, logprob=-0.1, base=base)


DONE = Completion(
    text="The earth",
    token_ids=(1, 2, 3),
    finish_reason="stop",
    usage=Usage(
        prompt_tokens=10, completion_tokens=3, base_response_tokens=5, cached_prompt_tokens=4, dropped_tokens=7
    ),
    trace=Trace(
        tokens=(token("The", "The"), token(" earth", " moon", 0.5), token("", "!"), token("?", None)),
        alignment="honesty",
        strength=0.9,
        warnings=(TraceWarning("repetition", 2, "twice", 0.9, 0.45),),
    ),
    base_response="The moon",
    amplification=0.45,
)


def converted(*completions, max_new_tokens=100, trace=True):
    answers = [Answer(one, STAGES) for one in completions]
    return to_model_output(
        "m", answers, max_new_tokens=max_new_tokens, count_tokens=lambda text: len(text.split()), trace=trace,
        seconds=6.0,
    )  # fmt: skip


def test_all_that_was_generated_counts_as_output_and_what_was_cached_not_as_input() -> None:
    output = converted(DONE)
    assert output.usage == ModelUsage(
        input_tokens=6, input_tokens_cache_read=4, output_tokens=15, total_tokens=25, reasoning_tokens=None
    )
    assert output.input_context_tokens == 10
    assert output.time == 6.0
    assert output.completion == "The earth"
    assert output.message.model == "m"


def test_the_metadata_holds_sdas_own_figures_and_every_token() -> None:
    figures = converted(DONE).metadata["sda"]
    assert figures.items() >= DONE.sda_metadata().items()
    counts = {name: figures[name] for name in ("prompt_tokens", "completion_tokens", "cached_prompt_tokens")}
    assert counts == {"prompt_tokens": 10, "completion_tokens": 3, "cached_prompt_tokens": 4}
    assert (figures["base_response_tokens"], figures["dropped_tokens"]) == (5, 7)
    assert figures["seconds"] == {"base_response": 1.0, "judge": 2.0, "answer": 3.0}
    assert figures["judge_calls"] == 1
    (warning,) = figures["warnings"]
    assert (warning["kind"], warning["place"], warning["new_strength"]) == ("repetition", 2, 0.45)
    assert figures["tokens"] == [
        {"text": "The", "divergence": 0.25, "changed": False},
        {"text": " earth", "divergence": 0.5, "changed": True},
        {"text": "", "divergence": 0.25, "changed": False},
        {"text": "?", "divergence": 0.25, "changed": False},
    ]


def test_the_tokens_can_be_left_out() -> None:
    assert "tokens" not in converted(DONE, trace=False).metadata["sda"]


def test_several_choices_add_up_and_each_has_its_figures() -> None:
    output = converted(DONE, replace(DONE, text="No."))
    assert [choice.message.text for choice in output.choices] == ["The earth", "No."]
    assert output.usage.total_tokens == 50
    assert output.usage.input_tokens_cache_read == 8
    assert len(output.metadata["sda_choices"]) == 2
    assert output.metadata["sda"] == output.metadata["sda_choices"][0]


@pytest.mark.parametrize(
    ("reason", "limit", "wanted"),
    [
        ("stop", 100, "stop"),
        ("tool_calls", 100, "tool_calls"),
        ("length", 3, "max_tokens"),
        ("length", 100, "model_length"),
    ],
)
def test_the_stop_reason_tells_a_token_limit_from_a_full_window(reason, limit, wanted) -> None:
    assert converted(replace(DONE, finish_reason=reason), max_new_tokens=limit).stop_reason == wanted


def test_a_thought_stands_before_the_text_and_its_tokens_are_counted() -> None:
    output = converted(replace(DONE, reasoning="Let me think"))
    thought, text = output.message.content
    assert isinstance(thought, ContentReasoning)
    assert thought.reasoning == "Let me think"
    assert isinstance(text, ContentText)
    assert output.completion == "The earth"
    assert output.usage.reasoning_tokens == 3


def test_calls_are_calls_and_invalid_ones_carry_their_error() -> None:
    call = {"type": "function", "id": "c1", "function": {"name": "add", "arguments": {"a": 1}}}
    cut = {"index": 1, "id": "c2", "name": None, "text": '{"na', "error": "It was cut off."}
    first, second = converted(replace(DONE, tool_calls=(call,), invalid_tool_calls=(cut,))).message.tool_calls
    assert (first.id, first.function, first.arguments, first.parse_error) == ("c1", "add", {"a": 1}, None)
    assert (second.id, second.arguments) == ("c2", {})
    assert "It was cut off." in second.parse_error
    assert '{"na' in second.parse_error


def test_log_probabilities_come_with_the_likeliest_tokens_and_their_bytes() -> None:
    chosen, half = TokenLogprob(1, "é", -0.1), TokenLogprob(9, "\N{REPLACEMENT CHARACTER}", -2.0)
    places = (GeneratedTokenLogprobs(chosen, (chosen, half)), GeneratedTokenLogprobs(half, ()))
    first, second = converted(replace(DONE, logprobs=places)).choices[0].logprobs.content
    assert (first.token, first.logprob, first.bytes) == ("é", -0.1, [0xC3, 0xA9])
    assert [(top.token, top.bytes) for top in first.top_logprobs] == [("é", [0xC3, 0xA9]), (half.text, None)]
    assert second.top_logprobs is None
