"""What a request asks of an engine: the server's half of the wire format, on the way in."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from sda_engine.alignment import Alignment
from sda_engine.choosing import Revision
from sda_engine.config import Sampling, Steering
from sda_engine.errors import ConfigError
from sda_engine.evaluators.protocol import Evaluator
from sda_engine.models import check_template_values
from sda_engine.request_settings import RequestSettings
from sda_engine.settings import Settings
from sda_engine.wire.fields import within
from sda_engine.wire.read_alignment import read_alignment
from sda_engine.wire.read_form import read_output, read_tokenize_output
from sda_engine.wire.read_messages import Message, read_messages
from sda_engine.wire.requests import ChatRequest, CompletionRequest, FormFields, SampledFields
from sda_engine.wire.sda_field import SAMPLING_FIELDS, RevisionField, SDAField

__all__ = [
    "Message",
    "ServerDefaults",
    "read_alignment",
    "read_chat_settings",
    "read_completion_settings",
    "read_messages",
    "read_output",
    "read_tokenize_output",
]

EvaluatorNamed = Callable[[str], Evaluator]
"""The evaluator that a server knows by a name; raises ConfigError for a name that it does not know."""

_NAMED_EVALUATORS = ("evaluator", "chooser")
_OTHERS = ("timeout", "adapter")
_OPENAI_NAMES = {"max_new_tokens": "max_tokens", "logprobs": "top_logprobs"}  # of Sampling's fields


@dataclass(frozen=True)
class ServerDefaults:
    """What requests of a server are laid over.

    Attributes:
        settings: alignment, steering, sampling and the rest, where a request says nothing.
        alignments: alignments by name, beside the presets.
        evaluator: finds evaluators by name.
    """

    settings: RequestSettings
    evaluator: EvaluatorNamed
    alignments: Mapping[str, Alignment] = field(default_factory=dict)


def read_chat_settings(request: ChatRequest, defaults: ServerDefaults) -> RequestSettings:
    """What a request asks for beside its messages, laid over the server's defaults key by key.

    What the defaults say of steering is left out where the request's own alignment leaves it no effect.
    `reasoning_effort` is not looked at: what it means, only the model can tell.

    Raises:
        ConfigError: a value is out of range, a name is unknown, or two fields exclude each other; `field` is its path.
        ConstraintError: a schema is too large.
    """
    top = request.top_logprobs if request.top_logprobs is not None else 0
    sampling = {"logprobs": top if request.logprobs else None, **_sampling(request)}
    names = _OPENAI_NAMES
    if request.max_completion_tokens is not None:
        sampling["max_new_tokens"] = request.max_completion_tokens
        names = {**names, "max_new_tokens": "max_completion_tokens"}
    return replace(_read_settings(request, defaults, sampling, names), output=read_output(request, request.sda))


def read_completion_settings(request: CompletionRequest, defaults: ServerDefaults) -> RequestSettings:
    """The same of a completion; errors as for a chat."""
    sampling = {"logprobs": request.logprobs, **_sampling(request)}
    settings = _read_settings(request, defaults, sampling, {**_OPENAI_NAMES, "logprobs": "logprobs"})
    return replace(settings, output=read_output(FormFields(), request.sda))


def _read_settings(
    request: SampledFields, defaults: ServerDefaults, sampling: Mapping[str, object], names: Mapping[str, str]
) -> RequestSettings:
    """The settings of a request, of which `sampling` is read already; `names` are those of its fields there."""
    said = request.sda or SDAField()
    base = defaults.settings
    alignment = (
        read_alignment(said.alignment, defaults.alignments) if "alignment" in said.model_fields_set else base.alignment
    )
    others = {name: getattr(said, name) for name in _OTHERS if name in said.model_fields_set}
    with within("sda.template_kwargs", whole=True):
        template_kwargs = {**base.template_kwargs, **check_template_values(said.template_kwargs or {})}
    with within("sda"):
        steering = _steering(said, defaults.evaluator)
        chosen = _laid_over(base.steering, steering)
        idle = [name for name in chosen.idle_for(alignment) if name not in steering]
        settings = replace(
            base,
            alignment=alignment,
            steering=chosen.without(idle),
            template_kwargs=template_kwargs,
            **others,
        )
    in_sda = {name: f"sda.{name}" for name in SAMPLING_FIELDS}
    with within("", {**names, **in_sda}):
        return replace(settings, sampling=base.sampling.replace(**sampling))


def _laid_over(base: Steering, said: Mapping[str, object]) -> Steering:
    """The server's defaults with a request's settings, without those of the defaults that these leave no effect."""
    while True:
        try:
            return base.replace(**said)
        except ConfigError as error:
            if error.field is None or error.field in said or error.field not in base.given():
                raise
            base = base.without([error.field])


def _sampling(request: SampledFields) -> dict[str, object]:
    """What a request says of sampling, by the names of Sampling; null says nothing, but for those in `sda`."""
    said = {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_new_tokens": request.max_tokens,
        "stop": request.stop,
        "seed": request.seed,
    }
    given = {name: value for name, value in said.items() if value is not None}
    sda = request.sda
    return {**given, **({} if sda is None else _given(sda, SAMPLING_FIELDS, Sampling))}


def _steering(said: SDAField, evaluator: EvaluatorNamed) -> dict[str, object]:
    """What `sda` says of Steering, by the names of its fields."""
    given = _given(said, Steering.model_fields, Steering)
    for name in _NAMED_EVALUATORS:
        if isinstance(known_as := given.get(name), str):
            with within(f"sda.{name}", whole=True):
                given[name] = evaluator(known_as)
    if said.revisions is not None:
        given["revisions"] = [_read_revision(one, place) for place, one in enumerate(said.revisions)]
    return given


def _read_revision(said: RevisionField, place: int) -> Revision:
    with within(f"sda.revisions[{place}]"):
        return Revision.of_values(said.model_dump(exclude_unset=True))


def _given(said: SDAField, names: Iterable[str], kind: type[Settings]) -> dict[str, object]:
    """The fields that were given, those left out whose null says nothing: where Python's field is never None."""
    given = {name: getattr(said, name) for name in names if name in said.model_fields_set}
    return {
        name: value
        for name, value in given.items()
        if value is not None or kind.model_fields[name].get_default(call_default_factory=True) is None
    }
