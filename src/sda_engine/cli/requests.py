"""Options -> what the engine is asked; and the loading of the engine, with a word about it on the terminal."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import transformers.utils.logging as transformers_logging
from rich.console import Console

from sda_engine import PRESETS, Alignment, Completion, Sampling, Steering, SteeringEngine
from sda_engine.alignment import resolve_alignment
from sda_engine.cli.evaluator_specs import check_url, make_evaluator
from sda_engine.cli.options import ModelOptions, RequestOptions
from sda_engine.errors import ConfigError
from sda_engine.prompts import Message

DEFAULT_ALIGNMENT = "helpfulness"
_ALIGNED = (
    "alignment",
    "avoid",
    "policy",
    "scope",
    "gain",
    "amplification",
    "plausibility",
    "evaluator",
    "evaluator_url",
)


@dataclass(frozen=True)
class EngineRequest:
    """The arguments of SteeringEngine.generate."""

    messages: list[Message]
    alignment: Alignment | None
    steering: Steering
    sampling: Sampling


def make_request(prompt: str, options: RequestOptions, *, plain: bool = False) -> EngineRequest:
    """What the engine is asked; a prompt of "-" is read from standard input.

    Raises:
        ConfigError: options are out of range, or contradict each other.
    """
    if plain:
        _check_plain(options)
    messages: list[Message] = [{"role": "user", "content": read_prompt(prompt)}]
    if options.system is not None:
        messages.insert(0, {"role": "system", "content": options.system})
    return EngineRequest(
        messages=messages,
        alignment=None if plain else make_alignment(options.alignment, options.avoid),
        steering=make_steering(options),
        sampling=Sampling().replace_given(
            temperature=options.temperature,
            top_p=options.top_p,
            max_new_tokens=options.max_new_tokens,
            max_reasoning_tokens=options.max_reasoning_tokens,
            stop=options.stop or None,
            seed=options.seed,
        ),
    )


def read_prompt(prompt: str) -> str:
    """The prompt itself, or standard input for "-".

    Raises:
        ConfigError: it is blank.
    """
    text = sys.stdin.read() if prompt == "-" else prompt
    if not text.strip():
        raise ConfigError("The prompt is blank: give a text, or '-' and a text on standard input.")
    return text


def combined(given: Sequence[str]) -> str | list[tuple[str, float]]:
    """What --alignment means: of several each ends with its weight, as in "honesty:2", or weighs 1; one is all text."""
    return given[0] if len(given) == 1 else [_weighted(option) for option in given]


def _weighted(option: str) -> tuple[str, float]:
    text, _, number = option.rpartition(":")
    try:
        return text, float(number)
    except ValueError:
        return option, 1.0


def make_alignment(given: Sequence[str] | None, avoid: str | None) -> Alignment | None:
    """The alignment that --alignment, as often as it was given, and --avoid mean together."""
    alignment = combined(given) if given else None
    if avoid is None:
        return resolve_alignment(DEFAULT_ALIGNMENT if alignment is None else alignment)
    if isinstance(alignment, list):
        return Alignment.combine(alignment, avoid=avoid)
    if alignment is not None and (preset := PRESETS.get(alignment.strip().lower())) is not None:
        return preset.replace(avoid=avoid)
    return Alignment(instruction=alignment, avoid=avoid)


def _check_plain(options: RequestOptions) -> None:
    for name in _ALIGNED:
        if getattr(options, name) not in (None, []):
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"--plain is an answer without steering, so {option} has no effect: drop one of the two.")


def make_steering(options: RequestOptions) -> Steering:
    """How strongly to steer.

    Raises:
        ConfigError: a value is out of range, or an option would have no effect.
    """
    if options.amplification is not None and options.evaluator is not None:
        raise ConfigError("--amplification replaces the score of --evaluator: give one of the two.")
    if options.evaluator is None:
        check_url(options.evaluator_url, ())
    return Steering().replace_given(
        policy=options.policy,
        scope=options.scope,
        gain=options.gain,
        amplification=options.amplification,
        plausibility=options.plausibility,
        evaluator=None if options.evaluator is None else make_evaluator(options.evaluator, options.evaluator_url),
    )


def load_engine(options: ModelOptions, console: Console) -> SteeringEngine:
    """Load a model, with a status line meanwhile.

    Raises:
        ModelLoadError, ConfigError: see SteeringEngine.load.
    """
    quieten_transformers()
    with console.status(f"Loading {options.model} ..."):
        return SteeringEngine.load(options.model, device=options.device, dtype=options.dtype)


def quieten_transformers() -> None:
    """Turn off the progress bars and warnings of transformers: in a command's own process, ours tell enough."""
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def completion_as_dict(completion: Completion) -> dict[str, object]:
    """A result as plain JSON, with SDA's figures."""
    return {
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "usage": {**asdict(completion.usage), "total_tokens": completion.usage.total_tokens},
        **completion.sda_metadata(),
    }
