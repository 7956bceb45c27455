"""The field `sda` of requests: what to steer by, and how. Its names are those of Python."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from sda_engine.choosing.revision import Sight
from sda_engine.config import EvaluatorFallback, GuardAction, Placement, Policy, Scope, TokenCategory
from sda_engine.wire.base import Asked, Several

_AN_ALIGNMENT = {
    "type": "object",
    "properties": {
        "instruction": {"type": "string"},
        "avoid": {"type": "string"},
        "rubric": {"type": "string"},
        "blank_picture": {"type": "boolean"},
        "name": {"type": "string"},
        "parts": {"type": "array", "items": {"type": "array", "prefixItems": [{"type": "object"}, {"type": "number"}]}},
    },
    "additionalProperties": False,
}
_PART = {"anyOf": [{"type": "string"}, _AN_ALIGNMENT]}
_PAIR = {"type": "array", "prefixItems": [_PART, {"type": "number"}], "minItems": 2, "maxItems": 2}
_ALIGNMENT = {
    "description": "A preset or an alignment of the server by its name, an instruction of your own, an object, several "
    'of these with weights, as in {"honesty": 1.0, "empathy": 0.5} or [["honesty", 1.0], ...], or null for a plain '
    "answer.",
    "anyOf": [
        {"type": "string"},
        _AN_ALIGNMENT,
        {"type": "object", "additionalProperties": {"type": "number"}},
        {"type": "array", "items": _PAIR},
        {"type": "null"},
    ],
}

AlignmentField = Annotated[Any, WithJsonSchema(_ALIGNMENT)]
SAMPLING_FIELDS = ("top_k", "min_p", "max_reasoning_tokens")
"""Fields of Sampling that `sda` has, since OpenAI has none for them."""

TemplateField = str | int | float | bool | None
MOST_REVISIONS = 16
"""Each is an answer of its own, decoded beside the others."""
Wish = Annotated[
    bool,
    BeforeValidator(lambda value: False if value is None else value),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"type": "null"}]}),
]
"""Whether a reply is to tell more; null says no."""


class ConstraintField(Asked):
    """What the text of an answer must look like, where it is no JSON: one of the two.

    Attributes:
        regex: a regular expression that matches it as a whole.
        lark: a context-free grammar that derives it, in llguidance's dialect of Lark.
    """

    regex: str | None = None
    lark: str | None = None


class RevisionField(Asked):
    """One way to decode a base response again, as `sda_engine.Revision`."""

    sees: Sight = "chat"
    factor: float = 1.0
    budget: float | None = None
    reserve: float | None = 0.0
    goes_on: bool = False


class TemplateFields(Asked):
    """What of `sda` changes how a prompt is rendered.

    Attributes:
        template_kwargs: values for variables that the model's chat template leaves open.
        schema_in_prompt: whether the system turn tells of the JSON schema of response_format.
        strict: whether a schema is refused that a grammar cannot enforce in full.
    """

    template_kwargs: dict[str, TemplateField] | None = None
    schema_in_prompt: bool | None = None
    strict: bool | None = None


class SDAField(TemplateFields):
    """What a request asks of SDA.

    A field that is absent leaves the server's default; so does null, but where None means something in Python too: a
    plain answer, no fixed amplification, no limit. Fields that are not told of here are those of `sda_engine.Steering`.

    Attributes:
        alignment: what the answer should be like; null for a plain answer.
        evaluator, chooser: by a name that the server knows.
        top_k, min_p, max_reasoning_tokens: see `sda_engine.Sampling`.
        adapter: the PEFT adapter to answer under, by its name on the server.
        timeout: seconds that the request may take, waiting and rating included.
        constraint: what the text must look like.
        trace: whether the answer tells what steering did at each token.
        token_ids: whether it tells the tokens' ids.
    """

    alignment: AlignmentField = None
    policy: Policy | None = None
    scope: Scope | None = None
    gain: float | None = None
    amplification: float | None = None
    evaluator: str | None = None
    amplification_curve: str | None = None
    avoid_strength: float | None = None
    plausibility: float | None = None
    placement: Placement | None = None
    temperature_schedule: str | None = None
    temperature_sensitivity: float | None = None
    min_temperature: float | None = None
    critical_divergence: float | None = None
    critical_categories: Several[TokenCategory] | None = None
    guard: GuardAction | None = None
    budget: float | None = None
    reserve: float | None = None
    quiet_divergence: float | None = None
    revisions: Annotated[Several[RevisionField], Field(max_length=MOST_REVISIONS)] | None = None
    keep: str | None = None
    chooser: str | None = None
    accept_score: float | None = None
    on_evaluator_error: EvaluatorFallback | None = None

    top_k: int | None = None
    min_p: float | None = None
    max_reasoning_tokens: int | None = None

    adapter: str | None = None
    timeout: float | None = None
    constraint: ConstraintField | None = None
    trace: Wish = False
    token_ids: Wish = False
