"""Requirement 30: requests that schemathesis makes of the server's own description, right ones and wrong ones."""

import logging
from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sda_engine import EngineSettings, Sampling, SteeringEngine
from sda_engine.testing import tiny_model, tiny_tokenizer
from sda_integrations.server import ServerSettings, make_app
from tests.conftest import user
from tests.sizes import size

KEY = "a-key-0123456789"
HEADERS = {"authorization": f"Bearer {KEY}"}
NEEDED = {"model", "messages", "prompt"}
BOUNDED = settings(
    max_examples=size(300, 12),
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),  # such bodies are large and slow to draw
)


@pytest.fixture(scope="module")
def engine():
    """Of a short window, so that no answer is long whatever a request says."""
    model, few = tiny_model(context_window=128), EngineSettings(prefix_cache=False)
    with SteeringEngine(model, tiny_tokenizer(), settings=few) as engine:
        yield engine


@pytest.fixture(scope="module")
def described(engine):
    """What schemathesis makes of the description of a server with a key."""
    from schemathesis import openapi  # here, since it takes a second

    some = ServerSettings(served_model_name="tiny", api_keys=(KEY,), sampling=Sampling(max_new_tokens=4))
    return openapi.from_asgi("/openapi.json", make_app(engine, some), headers=HEADERS)


def operations(described):
    return [each.ok() for each in described.get_all_operations()]


def check_replies(operation, mode, prepare):
    """Send what is made for an operation, check each reply against the description, and count the statuses."""
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    counts = Counter()

    @BOUNDED
    @given(operation.as_strategy(generation_mode=mode), st.data())
    def check(case, data):
        prepare(case, data)
        reply = case.call(headers=HEADERS)
        counts[reply.status_code] += 1
        # All checks, of 5xx and of conformance among them, but for one: a schema cannot say all that is wrong
        case.validate_response(reply, excluded_checks=[positive_data_acceptance])
        locked = case.call(headers={"authorization": "Bearer none"})
        wanted = 200 if operation.path == "/health" else 401
        assert locked.status_code == wanted
        case.validate_response(locked, excluded_checks=[positive_data_acceptance])

    check()
    return counts


def with_few_fields(case, data):
    """All fields at once contradict each other: what is needed and two others, of which many are answered."""
    if not isinstance(case.body, dict):
        return
    others = sorted(set(case.body) - NEEDED)
    kept = {*NEEDED, *data.draw(st.lists(st.sampled_from(others), max_size=2))} if others else NEEDED
    case.body = {name: value for name, value in case.body.items() if name in kept}
    if "model" in case.body:
        case.body["model"] = "tiny"
    if case.path == "/tokenize":  # which takes either
        case.body.pop("prompt", None)
    if case.path != "/v1/completions":
        case.body["messages"] = user("Who?")


def test_replies_to_requests_that_fit_the_description_fit_it_too(described):
    from schemathesis import GenerationMode

    counts = {one.path: check_replies(one, GenerationMode.POSITIVE, with_few_fields) for one in operations(described)}
    assert len(counts) >= 8
    for path, count in counts.items():
        assert 200 in count or path == "/v1/models/{model}", (path, count)


def test_replies_to_requests_that_do_not_fit_it_are_refusals_that_do(described, caplog):
    from schemathesis import GenerationMode

    caplog.set_level(logging.ERROR)
    posts = [one for one in operations(described) if one.method == "post"]
    counts = sum((check_replies(one, GenerationMode.NEGATIVE, lambda *_: None) for one in posts), Counter())
    assert len(posts) == 3
    assert set(counts) <= {400, 404, 413, 415, 422}, counts
    assert not caplog.records
