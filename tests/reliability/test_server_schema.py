"""Requirement 30: requests made of the server's own description are never its fault, and its replies keep to it."""

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from sda_engine import Sampling
from sda_engine.testing import ScriptedEngine
from sda_integrations.server import ServerSettings, make_app
from tests.sizes import size

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
KEY = "a-key-0123456789"
LIMITS = settings(
    max_examples=size(400, 15),
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def engine():
    with ScriptedEngine("A short answer.", context_window=1024) as engine:
        yield engine


def described(engine, **fields):
    """The description of a server's routes, as whoever has a key reads it."""
    app = make_app(engine, ServerSettings(sampling=Sampling(max_new_tokens=8), **fields))
    return schemathesis.openapi.from_asgi("/openapi.json", app, headers={"authorization": f"Bearer {KEY}"})


@pytest.fixture(scope="module")
def open_to_all(engine):
    return described(engine)


@pytest.fixture(scope="module")
def guarded(engine):
    return described(engine, api_keys=(KEY,))


def call(case, headers):
    """What a request is answered; one for a model asks for the one that there is, or nothing else would be seen."""
    if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
        case.body["model"] = "scripted"
    return case.call(headers=headers)


open_schema = schemathesis.pytest.from_fixture("open_to_all")
guarded_schema = schemathesis.pytest.from_fixture("guarded")


@open_schema.parametrize()
@LIMITS
def test_replies_are_as_the_server_describes_them(case):
    case.validate_response(call(case, {}), checks=CHECKS)


@guarded_schema.parametrize()
@LIMITS
def test_replies_to_a_key_are_so_too_and_none_comes_without(case):
    case.validate_response(call(case, {"authorization": f"Bearer {KEY}"}), checks=CHECKS)
    reply = call(case, {"authorization": "Bearer wrong"})
    assert reply.status_code == (200 if case.path == "/health" else 401)
    case.validate_response(reply, checks=CHECKS)
