"""Inspect's GenerateConfig -> the engine's settings of one request. FIELDS says of every field what becomes of it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from inspect_ai.model import GenerateConfig, ResponseSchema
from inspect_ai.tool import ToolChoice, ToolFunction, ToolInfo

from sda_engine import Constraint, Output
from sda_engine.adapting import reasoning_variables
from sda_engine.config import NoEffectWarning
from sda_engine.errors import ConfigError
from sda_engine.models import TemplateValue
from sda_engine.settings import shown
from sda_engine.user_warnings import warn_user

Handled = Literal["mapped", "inspect", "refused"]


@dataclass(frozen=True)
class ConfigField:
    """What becomes of a field of GenerateConfig.

    Attributes:
        handled: "mapped" to the engine, left to "inspect", which obeys it itself, or "refused".
        about: what it is mapped to, what Inspect does with it, or what a refused one's user may do in its place.
        off: values of a refused field that ask for nothing, beside None.
    """

    handled: Handled
    about: str
    off: tuple[object, ...] = ()


def _mapped(about: str) -> ConfigField:
    return ConfigField("mapped", about)


def _inspect(about: str) -> ConfigField:
    return ConfigField("inspect", about)


def _refused(about: str, *off: object) -> ConfigField:
    return ConfigField("refused", about, off)


_NO_REPEATS = "Steering(guard='relax') acts against repetition, as extra_body={'steering': {'guard': 'relax'}}."
_ALL_FIELDS = {
    "temperature": _mapped("Sampling.temperature; None is the engine's own default"),
    "top_p": _mapped("Sampling.top_p"),
    "top_k": _mapped("Sampling.top_k"),
    "max_tokens": _mapped("Sampling.max_new_tokens"),
    "reasoning_tokens": _mapped("Sampling.max_reasoning_tokens: a thought that has so many is closed"),
    "stop_seqs": _mapped("Sampling.stop"),
    "seed": _mapped("Sampling.seed; further choices count on from it"),
    "num_choices": _mapped("that many requests at once, each with a seed of its own"),
    "logprobs": _mapped("Sampling.logprobs, of the steered distribution"),
    "top_logprobs": _mapped("how many of them; asks for log-probabilities by itself too"),
    "timeout": _mapped("the timeout of each request; Inspect counts retries against it too"),
    "response_schema": _mapped("Output.constraint, by grammar; name and description go into the schema"),
    "parallel_tool_calls": _mapped("Output.parallel_tool_calls; None is one call at a time"),
    "reasoning_effort": _mapped("the template's reasoning_effort; 'none' is also enable_thinking=False"),
    "extra_body": _mapped("alignment, steering and the like for one call, see `arguments.CALL_KEYWORDS`"),
    "system_message": _inspect("put before the messages"),
    "max_retries": _inspect("how often requests are tried again, see SDAModelAPI.should_retry"),
    "attempt_timeout": _inspect("cancels a request, whose rows are then free"),
    "max_connections": _inspect("how many requests are under way; the engine decodes them in one batch"),
    "adaptive_connections": _inspect("the same, by itself"),
    "max_tool_output": _inspect("cuts results of tools"),
    "fail_on_refusal": _inspect("looks for a stop reason that this provider never gives"),
    "cache": _inspect("keeps whole outputs"),
    "best_of": _refused("Ask for num_choices and pick one, or use the policy 'revise', which rates revisions.", 1),
    "frequency_penalty": _refused(_NO_REPEATS, 0),
    "presence_penalty": _refused(_NO_REPEATS, 0),
    "logit_bias": _refused("Steer with an alignment, whose `avoid` describes what not to write.", {}),
    "prompt_logprobs": _refused("The engine rates texts by engine.continuation_logprobs: get_model().api.engine."),
    "internal_tools": _refused("The model has no tools of its own: leave it out.", False),
    "cache_prompt": _refused("It holds for all requests alike: engine_settings={'prefix_cache': False}.", True, "auto"),
    "stream_idle_timeout": _refused("Answers come whole: use attempt_timeout."),
    "fallback_models": _refused("There is one model: list further ones for the eval itself.", []),
    "verbosity": _refused("Say it as an alignment, e.g. alignment='Answer in one sentence.', or use max_tokens."),
    "effort": _refused("Use reasoning_effort where the model's template knows it, or max_tokens."),
    "reasoning_mode": _refused("Use reasoning_effort where the model's template knows it.", "standard"),
    "reasoning_summary": _refused("A thought is given whole, as ContentReasoning.", "none", "auto"),
    "reasoning_history": _refused("Chat templates leave out what was thought in earlier turns.", "none", "auto"),
    "extra_headers": _refused("Nothing goes over a network: leave them out.", {}),
    "modalities": _refused("The model writes text only: leave it out.", []),
    "batch": _refused("The engine batches requests as they come: leave it out, and set max_connections.", False),
}  # fmt: skip

FIELDS: Mapping[str, ConfigField] = MappingProxyType(_ALL_FIELDS)
"""Every field of GenerateConfig by name."""


def refuse_unsupported(config: GenerateConfig) -> None:
    """Refuse a config that asks for something which would be left undone.

    Raises:
        ConfigError: a field is set that the engine cannot obey, or that this adapter does not know yet.
    """
    for name in type(config).model_fields:
        value = getattr(config, name)
        if value is None:
            continue
        field = FIELDS.get(name)
        if field is None:
            raise ConfigError(
                f"GenerateConfig.{name} is unknown to this version of sda-integrations, which would drop it in "
                f"silence: leave it out, or upgrade sda-integrations."
            )
        if field.handled == "refused" and value not in field.off:
            raise ConfigError(f"GenerateConfig.{name} cannot be {shown(value)} with sda models. {field.about}")


def request_keywords(config: GenerateConfig) -> dict[str, object]:
    """The fields that are flat settings of a request, under the names of `sda_engine.adapting`; None is not given.

    Raises:
        ConfigError: logprobs and top_logprobs contradict each other.
    """
    return {
        "temperature": config.temperature,
        "top_p": config.top_p,
        "top_k": config.top_k,
        "max_tokens": config.max_tokens,
        "max_reasoning_tokens": config.reasoning_tokens,
        "stop": config.stop_seqs,
        "seed": config.seed,
        "logprobs": _count_logprobs(config.logprobs, config.top_logprobs),
        "timeout": config.timeout,
    }


def count_choices(config: GenerateConfig) -> int:
    """How many answers to give, at least 1.

    Raises:
        ConfigError: num_choices is less.
    """
    choices = 1 if config.num_choices is None else config.num_choices
    if choices < 1:
        raise ConfigError(f"GenerateConfig.num_choices cannot be {choices}: it must be a whole number of at least 1.")
    return choices


def make_output(tools: Sequence[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig) -> Output:
    """The form of the answer.

    Args:
        tools: what the model may call.
        tool_choice: "auto", "any", "none", or the one to call.
        config: response_schema and parallel_tool_calls are looked at.

    Raises:
        ConfigError: a tool or a schema cannot be read.
        ConstraintError: a schema is too large.
    """
    schema = config.response_schema
    return Output(
        tools=tuple(map(_to_tool, tools)),  # type: ignore[arg-type]  # Output makes Tools of them
        tool_choice=_to_choice(tool_choice) if tools else "auto",
        parallel_tool_calls=bool(config.parallel_tool_calls),
        constraint=None if schema is None else Constraint.json_schema(_to_json_schema(schema)),
        strict=schema is not None and bool(schema.strict),
    )


def effort_variables(effort: str | None, variables: Collection[str], *, thinks: bool) -> dict[str, TemplateValue]:
    """What reasoning_effort sets in the model's chat template.

    Warns with NoEffectWarning where the model never thinks: tasks ask for an effort whichever model answers.

    Args:
        effort: GenerateConfig.reasoning_effort.
        variables: the variables that the template leaves open.
        thinks: whether the model may think at all.

    Raises:
        ConfigError: the model thinks, and its template has no way to say how much.
    """
    owner = "GenerateConfig.reasoning_effort"
    if not thinks and effort not in (None, "none") and "reasoning_effort" not in variables:
        said = f"{owner}={effort!r}"
        warn_user(f"{said} changes nothing in this answer, since the model does not think.", NoEffectWarning)
        return {}
    others = "extra_body={'template_kwargs': {...}}"
    return reasoning_variables(effort, variables, thinks=thinks, owner=owner, others=others)


def _count_logprobs(wanted: bool | None, top: int | None) -> int | None:
    if wanted is False and top is not None:
        raise ConfigError(f"GenerateConfig.top_logprobs={top} needs log-probabilities: leave out logprobs=False.")
    return top if top is not None else 0 if wanted else None


def _to_tool(tool: ToolInfo) -> dict[str, object]:
    parameters = tool.parameters.model_dump(exclude_none=True)
    return {"name": tool.name, "description": tool.description, "parameters": parameters}


def _to_choice(choice: ToolChoice) -> str:
    if isinstance(choice, ToolFunction):
        return choice.name
    return "required" if choice == "any" else choice


def _to_json_schema(schema: ResponseSchema) -> dict[str, object]:
    """The schema, with what Inspect says beside it where the model can read it."""
    beside = {"title": schema.name, "description": schema.description}
    said = {name: text for name, text in beside.items() if text is not None}
    return {**said, **schema.json_schema.model_dump(exclude_none=True)}
