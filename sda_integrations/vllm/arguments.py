"""Arguments of `vllm serve` that steering was not tested with, or that would take it away. Imports nothing heavy."""

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sda_engine.errors import ConfigError

MAX_LOGPROBS = 128
"""Top log-probabilities that the server's part of SDA may ask vLLM for."""

_UNTESTED = "steering was not tested with it"


def _never(_: str) -> bool:
    return False


def _is(*values: str) -> Callable[[str], bool]:
    return lambda value: value in values


def _enough_logprobs(value: str) -> bool:
    return value == "-1" or (value.isdecimal() and int(value) >= MAX_LOGPROBS)


@dataclass(frozen=True)
class Refused:
    """An argument that is refused.

    Attributes:
        flag: its long name.
        why: completes the sentence "... cannot be given: ...".
        legal: which of its values are fine all the same, as text.
        short: its short name.
        when: what it means for the setting of vLLM that has another name.
    """

    flag: str
    why: str
    legal: Callable[[str], bool] = _never
    short: str | None = None
    when: tuple[str, object] | None = None

    @property
    def setting(self) -> str:
        """What vLLM's parser calls it."""
        return self.flag.removeprefix("--").replace("-", "_")


_OURS = "sda vllm sets it itself, since steering hangs on it"
_ONE_ROW = "a request's rows are several sequences, which must be decoded in the same step"

REFUSED: tuple[Refused, ...] = (
    Refused("--scheduler-cls", _OURS),
    Refused("--logits-processors", "SDA draws the tokens, and must see what all others have done to the logits"),
    Refused("--logprobs-mode", _OURS, _is("processed_logprobs")),
    Refused("--max-logprobs", f"SDA asks for up to {MAX_LOGPROBS}; it must be as many, or more", _enough_logprobs),
    Refused("--structured-outputs-config", "sda vllm sets it itself: grammars are those of the backend guidance"),
    Refused("--model", "the model stands first: sda vllm MODEL ..."),
    Refused("--speculative-config", _UNTESTED, short="-sc"),
    Refused("--spec-method", _UNTESTED),
    Refused("--spec-model", _UNTESTED),
    Refused("--spec-tokens", _UNTESTED),
    Refused("--pipeline-parallel-size", f"{_UNTESTED}; use --tensor-parallel-size", _is("1"), short="-pp"),
    Refused("--decode-context-parallel-size", _UNTESTED, _is("1"), short="-dcp"),
    Refused("--prefill-context-parallel-size", _UNTESTED, _is("1"), short="-pcp"),
    Refused("--scheduling-policy", f"{_UNTESTED}; use fcfs", _is("fcfs")),
    Refused(
        "--no-enable-chunked-prefill", f"{_ONE_ROW}, and wait for each other", when=("enable_chunked_prefill", False)
    ),
    Refused("--enable-batch-sharded-sampling", f"{_ONE_ROW}, on the same GPU", _is("False")),
    Refused("--kv-transfer-config", _UNTESTED),
    Refused("--kv-offloading-size", _UNTESTED),
    Refused("--ec-transfer-config", _UNTESTED),
    Refused("--grpc", "SDA's part of the server speaks HTTP", _is("False")),
    Refused("--omni", _UNTESTED),
    Refused("--skip-tokenizer-init", "prompts are made by the model's tokenizer", _is("False")),
)

RUST_FRONTEND = "VLLM_USE_RUST_FRONTEND"


def refuse_arguments(arguments: Sequence[str]) -> None:
    """Refuse arguments by how they are spelled, before anything is started.

    Raises:
        ConfigError: one cannot be given; it names the argument and the reason.
    """
    for flag, value in _spelled(arguments):
        for one in REFUSED:
            if flag in (one.flag, one.short) and not one.legal(value):
                raise _refusal(one, value)


def refuse_parsed(given: Namespace, defaults: Namespace) -> None:
    """Refuse arguments by what vLLM has understood: they can be abbreviated.

    Args:
        given: what vLLM's parser made of the arguments.
        defaults: what it makes of none.

    Raises:
        ConfigError: one cannot be given; it names the argument and the reason.
    """
    for one in REFUSED:
        if one.when is not None:
            setting, meant = one.when
            if getattr(given, setting, None) == meant:
                raise _refusal(one, "")
        elif one.setting != "model":
            value = getattr(given, one.setting, None)
            if value != getattr(defaults, one.setting, None) and not one.legal(str(value)):
                raise _refusal(one, str(value))


def _refusal(refused: Refused, value: str) -> ConfigError:
    shown = f"{refused.flag} {value}".rstrip()
    return ConfigError(f"vLLM's {shown} cannot be given: {refused.why}. Leave it out.")


def _spelled(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each flag, without what follows a dot, and its value where it has one.

    vLLM takes underscores for dashes, and --config.field for a part of what is JSON.
    """
    for place, argument in enumerate(arguments):
        if not argument.startswith("-"):
            continue
        flag, equals, value = argument.partition("=")
        if not equals and place + 1 < len(arguments) and not arguments[place + 1].startswith("--"):
            value = arguments[place + 1]
        yield flag.partition(".")[0].replace("_", "-"), value
