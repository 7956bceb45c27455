"""Options that commands share. Imports nothing heavy.

Typer reads options from a function's parameters alone. So that commands need not repeat a dozen of them, a group of
options is a frozen dataclass here, and `takes_options` spreads its fields over a command's signature.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, get_type_hints

import typer

Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks, and what libraries log and warn about.")]
LENGTH_NAMES = ("--max-tokens", "--max-new-tokens", "-n")  # whatever a user knows it by elsewhere
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else on standard output.")]


def _model(help_text: str) -> Any:
    return typer.Option(help=help_text, rich_help_panel="Model")


def _steering(help_text: str) -> Any:
    return typer.Option(help=help_text, rich_help_panel="Steering")


def _answer(help_text: str, *names: str) -> Any:
    return typer.Option(*names, help=help_text, rich_help_panel="Answer")


@dataclass(frozen=True)
class ModelOptions:
    """Which model to load, and how."""

    model: Annotated[str, _model("An alias, a folder, a GGUF file or a Hub id.")] = "smollm2-135m"
    device: Annotated[str, _model("auto, or a torch device such as cpu or cuda:0.")] = "auto"
    dtype: Annotated[str, _model("auto, float32, bfloat16 or float16.")] = "auto"


@dataclass(frozen=True)
class RequestOptions:
    """What to steer towards, how strongly, and how to sample. None means the engine's default."""

    alignment: Annotated[
        list[str] | None,
        _steering(
            "A preset (see 'sda presets') or an instruction of your own. Given several times, they are combined, and "
            "':NUMBER' at an end is a weight: honesty:2. Default: helpfulness; none where --avoid is given."
        ),
    ] = None
    avoid: Annotated[str | None, _steering("Text to steer away from, described in the affirmative.")] = None
    policy: Annotated[
        str | None,
        _steering("paper: the published formulas; budget: steering that ends; revise: the best of several revisions."),
    ] = None
    scope: Annotated[
        str | None,
        _steering("Where steering acts: answer, text, thought, calls or all. Default: answer."),
    ] = None
    gain: Annotated[float | None, _steering("Constant multiplier of the amplification. Default: 2.")] = None
    amplification: Annotated[
        float | None, _steering("A fixed factor from 0 to 1, in place of the one that follows from a score.")
    ] = None
    plausibility: Annotated[
        float | None,
        _steering(
            "Keep only tokens at least this likely, compared with the likeliest one, under the instruction. "
            "Default: 0. Around 0.1 keeps small models fluent."
        ),
    ] = None
    evaluator: Annotated[
        str | None,
        _steering(
            "Who rates the base response: fixed:SCORE, contrastive, self-rating, uncertainty, openai:MODEL or "
            "reward:MODEL. Default: fixed:50."
        ),
    ] = None
    evaluator_url: Annotated[
        str | None, _steering("Address of an OpenAI-compatible server, for the evaluator openai:MODEL.")
    ] = None
    system: Annotated[str | None, _answer("A system message before the prompt.")] = None
    temperature: Annotated[float | None, _answer("0 is greedy. Default: 0.6.")] = None
    top_p: Annotated[float | None, _answer("Above 0, at most 1. Default: 0.95.")] = None
    max_new_tokens: Annotated[int | None, _answer("Length limit of the answer. Default: 512.", *LENGTH_NAMES)] = None
    max_reasoning_tokens: Annotated[
        int | None, _answer("Close a thought that is this long; 0 and up. Default: no limit of its own.")
    ] = None
    stop: Annotated[list[str] | None, _answer("End before this text. Can be given several times.")] = None
    seed: Annotated[int | None, _answer("The same seed repeats the same answer.")] = None


def takes_options(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take groups of options: parameters whose type is a dataclass such as ModelOptions.

    Typer sees each field of a group as an option of its own; the command gets the dataclass.
    """
    signature = inspect.signature(command, eval_str=True)
    annotations = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    groups = {name: kind for name, kind in annotations.items() if isinstance(kind, type) and is_dataclass(kind)}

    def spread(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        command(**given)

    parameters = []
    for name, parameter in signature.parameters.items():
        parameters += _options_of(groups[name]) if name in groups else [_by_keyword(parameter)]
    spread.__name__, spread.__doc__ = command.__name__, command.__doc__
    spread.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return spread


def hands_on_arguments(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command hand what it does not know on to another program: its last parameter takes that as it stands."""
    command.context_settings = {"ignore_unknown_options": True}  # type: ignore[attr-defined]
    return command


def _options_of(group: type[Any]) -> list[inspect.Parameter]:
    types = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=types[field.name]
        )
        for field in fields(group)
    ]


def _by_keyword(parameter: inspect.Parameter) -> inspect.Parameter:
    return parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
