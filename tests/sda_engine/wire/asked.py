"""Settings that may be asked for over the wire, and a server that knows the evaluators among them."""

import json
from collections.abc import Mapping

from hypothesis import strategies as st

from sda_engine import Alignment, Sampling, Steering
from sda_engine.choosing import KEPT, Revision
from sda_engine.config import SCOPES
from sda_engine.errors import ConfigError
from sda_engine.evaluators import ContrastiveEvaluator, FixedScore, SelfRatingEvaluator, UncertaintyEvaluator
from sda_engine.output import Constraint, Output, Tool
from sda_engine.request_settings import RequestSettings
from sda_engine.steering import AMPLIFICATION_CURVES, TEMPERATURE_SCHEDULES
from sda_engine.wire import ServerEvaluator
from sda_engine.wire.read_request import ServerDefaults
from sda_engine.wire.requests import ChatRequest
from sda_engine.wire.server_evaluator import known_name

JUDGE = ServerEvaluator("judge")
RATERS = (FixedScore(30), ContrastiveEvaluator(4.0), SelfRatingEvaluator(), UncertaintyEvaluator(), JUDGE)
BY_NAME = {known_name(rater): rater for rater in RATERS}

STEERING: Mapping[str, list[object]] = {
    "policy": ["auto", "paper", "budget", "revise"],
    "scope": list(SCOPES),
    "gain": [0.0, 3.5],
    "amplification": [None, 0.0, 0.5],
    "evaluator": list(RATERS),
    "avoid_strength": [None, 0.25],
    "amplification_curve": list(AMPLIFICATION_CURVES),
    "plausibility": [0.0, 0.1],
    "placement": ["after_query", "system"],
    "temperature_schedule": list(TEMPERATURE_SCHEDULES),
    "temperature_sensitivity": [0.5],
    "min_temperature": [0.0, 0.2],
    "critical_divergence": [0.0, 0.3],
    "critical_categories": [(), ("numbers", "negations")],
    "guard": ["off", "report", "relax"],
    "budget": [0.0, 20.0],
    "reserve": [0.0, 2.5],
    "quiet_divergence": [0.0, 0.05],
    "revisions": [None, (Revision(sees="answer", factor=0.5), Revision(budget=12.0, reserve=None, goes_on=True))],
    "keep": list(KEPT),
    "chooser": [None, JUDGE],
    "accept_score": [None, 90.0],
    "on_evaluator_error": ["raise", "instruct_only", "fixed"],
}
"""Of each field of Steering, values that have a name or a number."""

SAMPLING: Mapping[str, list[object]] = {
    "temperature": [0.0, 1.5],
    "top_p": [None, 0.5],
    "top_k": [None, 40],
    "min_p": [None, 0.05],
    "max_new_tokens": [1, 400],
    "max_reasoning_tokens": [None, 0, 32],
    "stop": [(), ("\n\n", "END")],
    "seed": [None, 0, 2**63 - 1],
    "logprobs": [None, 0, 5],
}

ALIGNMENTS = (
    None,
    Alignment(instruction="Use plain words.", rubric="Rate how plain it is.", name="plain"),
    Alignment(avoid="Legal terms, as a lawyer would use them."),
    Alignment(instruction="Say what the picture shows.", avoid="Guesses.", blank_picture=True),
    Alignment(blank_picture=True),
    Alignment.combine({"honesty": 1.0, "empathy": 0.5}, avoid="Jargon — à la carte."),
    Alignment.combine([("honesty", 3), (Alignment(instruction="Use plain words."), 1)]),
)

ADD = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"]}
TOOLS = (Tool(name="add", description="Adds two numbers.", parameters=ADD), Tool(name="now"))
CONSTRAINTS = (
    None,
    Constraint.json_schema(ADD),
    Constraint.json_schema({"type": "object"}),
    Constraint.json_schema({"enum": ["ä", 1.5, None, 10**20]}),
    Constraint.regex(r"\d{4}-\d{2}"),
    Constraint.lark('start: "yes" | "no"'),
)


def fitting(values: Mapping[str, object]) -> Steering:
    """The settings with these values, but for those that the others leave no effect."""
    try:
        return Steering.of_values(values)
    except ConfigError as error:
        return fitting({name: value for name, value in values.items() if name != error.field})


def some(values: Mapping[str, list[object]]) -> st.SearchStrategy[dict[str, object]]:
    """Some of the fields, each with one of its values."""
    return st.fixed_dictionaries({}, optional={name: st.sampled_from(legal) for name, legal in values.items()})


outputs = st.builds(
    Output,
    tools=st.sampled_from([(), TOOLS[:1], TOOLS]),
    tool_choice=st.sampled_from(["auto", "none"]),
    parallel_tool_calls=st.booleans(),
    constraint=st.sampled_from(CONSTRAINTS),
    schema_in_prompt=st.booleans(),
    strict=st.booleans(),
) | st.builds(Output, tools=st.just(TOOLS), tool_choice=st.sampled_from(["required", "add"]))

settings = st.builds(
    RequestSettings,
    alignment=st.sampled_from(ALIGNMENTS),
    steering=some(STEERING).map(fitting),
    sampling=some(SAMPLING).map(Sampling.of_values),
    output=outputs,
    timeout=st.sampled_from([None, 0.5, 30.0]),
    template_kwargs=st.sampled_from([{}, {"enable_thinking": False, "n": 2, "note": "ä", "x": 0.5, "none": None}]),
    adapter=st.sampled_from([None, "polite"]),
)


def known(name: str) -> object:
    """The evaluator that this server knows by a name."""
    if name not in BY_NAME:
        raise ConfigError(f"evaluator cannot be {name!r}: this server knows {', '.join(BY_NAME)}.")
    return BY_NAME[name]


def server(**changes: object) -> ServerDefaults:
    """A server's defaults, of RequestSettings' fields and of its own."""
    own = {name: changes.pop(name) for name in ("alignments",) if name in changes}
    return ServerDefaults(RequestSettings(**changes), known, **own)


def body(**fields: object) -> dict[str, object]:
    """A request of one turn."""
    return {"model": "tiny", "messages": [{"role": "user", "content": "Is the earth flat?"}], **fields}


def parsed(given: Mapping[str, object]) -> ChatRequest:
    """A request that has been JSON on its way."""
    return ChatRequest.parse(json.dumps(given).encode())
