"""Requirement 30: requests made of the server's own description are never its fault, and its replies keep to it."""

import collections

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from sda_engine import Sampling
from sda_engine.testing import ScriptedEngine
from sda_integrations.server import ServerSettings, make_app
from tests.conftest import user
from tests.sizes import size

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
KEY = "a-key-0123456789"
RIGHT, WRONG = ({"authorization": f"Bearer {key}"} for key in (KEY, "wrong"))
POSTED = ("/v1/chat/completions", "/v1/completions", "/tokenize")
CHAT = {"model": "scripted", "messages": user("What is in the library?"), "max_tokens": 5}
ANSWERED = {
    "/v1/chat/completions": [
        CHAT,
        CHAT | {"n": 2, "logprobs": True, "top_logprobs": 2, "seed": 1, "stop": ["x"]},
        CHAT | {"sda": {"alignment": "honesty", "trace": True, "token_ids": True, "evaluator": "contrastive"}},
        CHAT | {"sda": {"alignment": {"honesty": 1, "empathy": 0.5}, "policy": "revise"}},
    ],
    "/v1/completions": [{"model": "scripted", "prompt": ["one", "two"], "logprobs": 2, "n": 2, "max_tokens": 3}],
    "/tokenize": [{"prompt": "library"}, {"messages": CHAT["messages"]}],
}
"""Requests of which descriptions alone make few: whatever is made of them mostly fits the form and makes no sense."""
ROUTES = (*POSTED, "/v1/models", "/v1/models/{model}", "/v1/sda/presets", "/health", "/metrics")


@pytest.fixture(scope="module")
def engine():
    with ScriptedEngine("A short answer.", context_window=1024) as engine:
        yield engine


@pytest.fixture(scope="module", params=[(), (KEY,)], ids=["open", "guarded"])
def schema(request, engine):
    """The description of a server's routes, as whoever has a key reads it."""
    app = make_app(engine, ServerSettings(sampling=Sampling(max_new_tokens=8), api_keys=request.param))
    return schemathesis.openapi.from_asgi("/openapi.json", app, headers=RIGHT)


def test_all_routes_are_described(schema):
    assert set(schema.raw_schema["paths"]) == set(ROUTES)


@pytest.mark.parametrize("path", ROUTES)
def test_no_request_of_the_description_is_a_fault_and_each_reply_is_as_it_says(schema, path):
    guarded, statuses = bool(schema.app.state.service.settings.api_keys), collections.Counter()

    @settings(
        max_examples=size(400, 6 if guarded else 12) if path in POSTED else size(50, 3),
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases(schema, path))
    def ask(case):
        reply = case.call(headers=RIGHT)
        statuses[reply.status_code] += 1
        case.validate_response(reply, checks=CHECKS)
        if guarded:
            reply = case.call(headers=WRONG)
            assert reply.status_code == (200 if path == "/health" else 401)
            case.validate_response(reply, checks=CHECKS)

    ask()
    assert 401 not in statuses
    assert statuses[400 if path in POSTED else 404 if "{" in path else 200]


@pytest.mark.parametrize(("path", "body"), [(path, body) for path, bodies in ANSWERED.items() for body in bodies])
def test_what_is_answered_is_as_the_description_says(schema, path, body):
    case = schema[path]["POST"].Case(body=body, media_type="application/json")
    reply = case.call(headers=RIGHT)
    assert reply.status_code == 200, reply.text
    case.validate_response(reply, checks=CHECKS)


def cases(schema, path):
    """Requests that fit the description, and for what is posted ones that do not, too."""
    operation = schema[path]["POST" if path in POSTED else "GET"]
    fitting = operation.as_strategy()
    if path not in POSTED:
        return fitting
    return st.one_of(fitting, operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)).map(named)


def named(case):
    """One that names a model asks for the one that there is, or nothing else of it would be seen."""
    if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
        case.body["model"] = "scripted"
    return case
