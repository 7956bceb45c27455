"""Every field of GenerateConfig reaches the engine, is Inspect's own business, or is refused by name."""

import pytest
from inspect_ai.model import GenerateConfig, ResponseSchema
from inspect_ai.tool import ToolFunction, ToolInfo, ToolParams
from inspect_ai.util import json_schema

from sda_engine.config import NoEffectWarning
from sda_engine.errors import ConfigError
from sda_integrations.inspect.generate_config import (
    FIELDS,
    count_choices,
    effort_variables,
    make_output,
    refuse_unsupported,
    request_keywords,
)
from tests.sda_engine.laid_out import THINKING
from tests.sda_integrations.inspect.asking import api_of, ask

# A value of each refused field that asks for something
REFUSED = {
    "best_of": 2,
    "frequency_penalty": 0.5,
    "presence_penalty": -0.5,
    "logit_bias": {3: 10.0},
    "prompt_logprobs": 1,
    "internal_tools": True,
    "cache_prompt": False,
    "stream_idle_timeout": 5,
    "fallback_models": ["sda/other"],
    "verbosity": "low",
    "effort": "low",
    "reasoning_mode": "pro",
    "reasoning_summary": "detailed",
    "reasoning_history": "all",
    "extra_headers": {"x": "y"},
    "modalities": ["image"],
    "batch": True,
}
# A value of each mapped field, and where in the engine's request it shows
MAPPED = {
    "temperature": (0.25, "temperature", 0.25),
    "top_p": (0.5, "top_p", 0.5),
    "top_k": (7, "top_k", 7),
    "max_tokens": (11, "max_new_tokens", 11),
    "stop_seqs": (["END"], "stop", ("END",)),
    "seed": (5, "seed", 5),
    "logprobs": (True, "logprobs", 0),
    "top_logprobs": (3, "logprobs", 3),
}
ELSEWHERE = {
    *("num_choices", "timeout", "response_schema", "parallel_tool_calls"),
    *("reasoning_effort", "reasoning_tokens", "extra_body"),
}


def test_no_field_of_this_version_of_inspect_is_left_out_or_made_up() -> None:
    assert set(FIELDS) == set(GenerateConfig.model_fields)


def test_every_field_is_tried_in_these_tests() -> None:
    kinds = {kind: {name for name, field in FIELDS.items() if field.handled == kind} for kind in ("mapped", "refused")}
    assert kinds["refused"] == set(REFUSED)
    assert kinds["mapped"] == {*MAPPED, *ELSEWHERE}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_field_says_its_name_and_what_to_do(name) -> None:
    with pytest.raises(ConfigError, match=f"GenerateConfig.{name} cannot be .* with sda models. [A-Z].*[.]$"):
        refuse_unsupported(GenerateConfig(**{name: REFUSED[name]}))


@pytest.mark.parametrize(
    "off",
    [
        {},
        {"frequency_penalty": 0.0, "presence_penalty": 0.0, "best_of": 1, "batch": False, "logit_bias": {}},
        {"cache_prompt": True, "reasoning_summary": "auto", "reasoning_history": "none", "modalities": []},
        {"cache": True, "max_retries": 3, "attempt_timeout": 9, "max_connections": 4, "adaptive_connections": False},
    ],
)
def test_what_asks_for_nothing_or_is_inspects_own_passes(off) -> None:
    refuse_unsupported(GenerateConfig(**off))


def test_a_field_that_a_later_inspect_may_bring_is_not_dropped_in_silence() -> None:
    class Later(GenerateConfig):
        sparkle: int | None = None

    refuse_unsupported(Later())
    with pytest.raises(ConfigError, match=r"GenerateConfig\.sparkle is unknown to this version"):
        refuse_unsupported(Later(sparkle=1))


@pytest.mark.parametrize("name", MAPPED)
async def test_a_mapped_field_reaches_the_engine(name, scripted) -> None:
    engine = scripted()
    given, field, wanted = MAPPED[name]
    await ask(api_of(engine), **{name: given})
    assert getattr(engine.requests[0].sampling, field) == wanted


async def test_reasoning_tokens_close_a_thought(scripted) -> None:
    engine = scripted("so it goes and goes</think>Yes.", chat_template=THINKING)
    output = await ask(api_of(engine), reasoning_tokens=2)
    assert engine.requests[0].sampling.max_reasoning_tokens == 2
    thought, text = output.choices[0].message.content
    assert "so it goes".startswith(thought.reasoning)
    assert text.text == "Yes."
    with pytest.raises(ConfigError, match="or --reasoning-tokens"):
        await ask(api_of(engine), extra_body={"max_reasoning_tokens": 2})


async def test_what_is_not_set_is_the_engines_default(scripted) -> None:
    engine = scripted()
    await ask(api_of(engine))
    assert engine.requests[0].sampling.model_fields_set <= {"seed"}


async def test_a_timeout_is_the_requests_own(engine) -> None:
    assert request_keywords(GenerateConfig(timeout=9))["timeout"] == 9
    with pytest.raises(ConfigError, match="timeout cannot be 0"):
        await ask(api_of(engine), timeout=0)


def test_log_probabilities_cannot_be_counted_and_unwanted() -> None:
    with pytest.raises(ConfigError, match="leave out logprobs=False"):
        request_keywords(GenerateConfig(logprobs=False, top_logprobs=2))
    assert request_keywords(GenerateConfig(logprobs=False))["logprobs"] is None


def test_no_choice_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="num_choices cannot be 0"):
        count_choices(GenerateConfig(num_choices=0))
    assert count_choices(GenerateConfig()) == 1


def add_tool(name="add") -> ToolInfo:
    numbers = {"a": json_schema(int), "b": json_schema(int)}
    return ToolInfo(name=name, description="Adds.", parameters=ToolParams(properties=numbers, required=["a", "b"]))


@pytest.mark.parametrize(
    ("choice", "wanted"), [("auto", "auto"), ("any", "required"), ("none", "none"), (ToolFunction(name="add"), "add")]
)
def test_tools_and_the_choice_among_them_become_an_output(choice, wanted) -> None:
    output = make_output([add_tool()], choice, GenerateConfig(parallel_tool_calls=True))
    assert output.tool_choice == wanted
    assert output.parallel_tool_calls
    (tool,) = output.tools
    assert (tool.name, tool.description) == ("add", "Adds.")
    assert tool.parameters == {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }


def test_a_response_schema_becomes_a_grammar_with_its_name_and_description() -> None:
    schema = ResponseSchema(name="colour", json_schema=json_schema(bool), description="A colour.", strict=True)
    output = make_output([], "none", GenerateConfig(response_schema=schema))
    assert output.strict
    assert output.constraint is not None
    assert output.constraint.kind == "json_schema"
    for text in ('"boolean"', '"colour"', '"A colour."'):
        assert text in output.constraint.source


@pytest.mark.parametrize(
    ("effort", "variables", "thinks", "wanted"),
    [
        (None, (), True, {}),
        ("none", (), False, {}),
        ("none", ("enable_thinking",), True, {"enable_thinking": False}),
        ("low", ("reasoning_effort", "enable_thinking"), True, {"reasoning_effort": "low"}),
    ],
)
def test_reasoning_effort_sets_what_the_template_leaves_open(effort, variables, thinks, wanted) -> None:
    assert effort_variables(effort, variables, thinks=thinks) == wanted


@pytest.mark.parametrize(("variables", "legal"), [(("enable_thinking",), "'none'"), ((), "left out")])
def test_reasoning_effort_that_no_template_variable_can_say_is_refused(variables, legal) -> None:
    with pytest.raises(ConfigError, match=f"cannot be 'low'.*It must be {legal}"):
        effort_variables("low", variables, thinks=True)


def test_an_effort_of_a_model_that_never_thinks_is_warned_of() -> None:
    with pytest.warns(NoEffectWarning, match="reasoning_effort='high' changes nothing"):
        assert effort_variables("high", (), thinks=False) == {}


async def test_no_effort_turns_a_thinking_models_thoughts_off(thinker) -> None:
    api = api_of(thinker)
    await ask(api, reasoning_effort="none", max_tokens=1)
    with pytest.raises(ConfigError, match="reasoning_effort cannot be 'high'"):
        await ask(api, reasoning_effort="high", max_tokens=1)
