import pytest

from sda_engine.errors import EvaluationError
from sda_engine.evaluators.breaker import FAILURES_TO_OPEN
from sda_engine.testing import tiny_engine
from sda_integrations.server import EvaluatorsByName, EvaluatorSettings
from sda_integrations.server.metrics import Metrics


def read(page):
    """The numbers of a page of metrics, by name and labels."""
    lines = page.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}


@pytest.fixture
def judged():
    return EvaluatorsByName({"judge": EvaluatorSettings(spec="openai:judge", url="http://judge.internal:9/v1")})


@pytest.fixture
def metrics(scripted, judged):
    return Metrics(scripted, judged)


async def test_requests_are_counted_by_route_and_status_and_clients_make_up_no_labels(client_of):
    client = client_of(api_keys=("key",))
    headers = {"authorization": "Bearer key"}
    await client.get("/v1/models", headers=headers)
    await client.get("/v1/models/one", headers=headers)
    await client.get("/v1/models/two", headers=headers)
    await client.get("/v1/models")
    await client.get("/made/up", headers=headers)
    reply = await client.get("/metrics", headers=headers)
    told = read(reply.text)
    assert reply.headers["content-type"].startswith("text/plain")
    assert told['sda_requests_total{route="/v1/models",status="200"}'] == 1
    assert told['sda_requests_total{route="/v1/models",status="401"}'] == 1
    assert told['sda_requests_total{route="/v1/models/{model:path}",status="404"}'] == 2
    assert told['sda_requests_total{route="other",status="404"}'] == 1
    assert told["sda_requests_running"] == 1, "the one that asks"
    assert told['sda_request_seconds_count{route="/v1/models"}'] == 2
    assert "made/up" not in reply.text


async def test_no_request_waits_for_the_openapi_file_to_be_made_but_the_one_that_asks_for_it(client_of):
    """It takes a tenth of a second, in which no stream goes on."""
    client = client_of(api_keys=("key",))
    for path in ("/v1/models", "/v1/chat/completions", "/metrics", "/", "/made/up"):
        assert (await client.get(path)).status_code == 401
    headers = {"authorization": "Bearer key"}
    told = read((await client.get("/metrics", headers=headers)).text)
    assert told['sda_requests_total{route="/v1/chat/completions",status="401"}'] == 1
    assert told['sda_requests_total{route="/",status="401"}'] == 1
    assert told['sda_requests_total{route="other",status="401"}'] == 1
    assert client._transport.app.openapi_schema is None
    await client.get("/openapi.json", headers=headers)
    assert client._transport.app.openapi_schema is not None


async def test_two_servers_in_a_process_do_not_count_into_one_another(client_of):
    await client_of().get("/v1/models")
    assert "/v1/models" not in (await client_of().get("/metrics")).text


def test_what_happens_to_answers_is_counted(metrics):
    metrics.began_to_answer(0.02)
    metrics.decoded(11, 1.0)
    metrics.decoded(1, 0.0)
    metrics.answered("stop", prompt_tokens=10, cached_tokens=4, completion_tokens=7)
    metrics.answered("length", prompt_tokens=1, cached_tokens=0, completion_tokens=2)
    metrics.cancelled()
    metrics.evaluator_failed("fixed:30")
    metrics.evaluator_failed("judge")
    told = read(metrics.page().decode())
    assert told['sda_answers_total{finish_reason="stop"}'] == 1
    assert told["sda_prompt_tokens_total"] == 11
    assert told["sda_cached_prompt_tokens_total"] == 4
    assert told["sda_completion_tokens_total"] == 9
    assert told['sda_time_to_first_token_seconds_bucket{le="0.025"}'] == 1
    assert told["sda_time_per_output_token_seconds_count"] == 1, "one token alone has no time to the next"
    assert told["sda_time_per_output_token_seconds_sum"] == pytest.approx(0.1)
    assert told["sda_cancelled_requests_total"] == 1
    assert told['sda_evaluator_failures_total{evaluator="fixed"}'] == 1
    assert told['sda_evaluator_failures_total{evaluator="judge"}'] == 1


def test_a_breaker_that_opens_shows(metrics, judged):
    assert read(metrics.page().decode())['sda_evaluator_breaker_open{evaluator="judge"}'] == 0
    breaker = judged.get("judge").breaker
    for _ in range(FAILURES_TO_OPEN):
        with pytest.raises(EvaluationError), breaker.guard():
            raise EvaluationError("no score")
    page = metrics.page().decode()
    assert read(page)['sda_evaluator_breaker_open{evaluator="judge"}'] == 1
    assert "judge.internal" not in page


def test_the_engines_own_numbers_stand_beside_them(judged):
    with tiny_engine() as engine:
        metrics = Metrics(engine, judged)
        before = read(metrics.page().decode())
        engine.generate([{"role": "user", "content": "hello"}])
        after = read(metrics.page().decode())
    assert before["sda_engine_passes_total"] == 0
    assert after["sda_engine_passes_total"] == engine.stats().passes > 0
    assert after["sda_engine_tokens_total"] == engine.stats().tokens
    assert after["sda_engine_cache_tokens"] == engine.stats().cache_tokens
    assert set(engine.stats().as_json()) == {
        name.removeprefix("sda_engine_").removesuffix("_total") for name in after if name.startswith("sda_engine_")
    }, "each number of the engine is told"
