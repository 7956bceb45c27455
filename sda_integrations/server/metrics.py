"""Metrics: what a server has done and is doing, in numbers, for Prometheus.

Each server has a registry of its own, so that several in one process do not count into one another.
"""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from sda_engine.decoding import EngineStats
from sda_engine.engine import SteeringEngine
from sda_integrations.server.evaluators import EvaluatorsByName

_REQUEST_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 120.0, 300.0, 600.0)
_FIRST_TOKEN_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """Counts what happens to requests, and reads from the engine what it does.

    The methods say what happened. Those of the answering routes are `answered`, `began_to_answer`, `decoded`,
    `cancelled` and `evaluator_failed`; the rest is counted around all routes.

    Args:
        engine: whose numbers are told along.
        evaluators: whose breakers are told along.
    """

    def __init__(self, engine: SteeringEngine, evaluators: EvaluatorsByName) -> None:
        self._registry = registry = CollectorRegistry()
        self._evaluators = evaluators
        self._requests = Counter(
            "sda_requests", "Requests that have ended, by route and status.", ["route", "status"], registry=registry
        )
        self._running = Gauge("sda_requests_running", "Requests that have begun and not ended.", registry=registry)
        self._seconds = Histogram(
            "sda_request_seconds",
            "Seconds from a request's first byte to the end of its reply.",
            ["route"],
            buckets=_REQUEST_SECONDS,
            registry=registry,
        )
        self._answers = Counter(
            "sda_answers",
            "Answers that were given whole, by the reason they ended for.",
            ["finish_reason"],
            registry=registry,
        )
        self._prompt_tokens = Counter("sda_prompt_tokens", "Tokens of prompts.", registry=registry)
        self._cached_tokens = Counter(
            "sda_cached_prompt_tokens", "Tokens of prompts that did not have to be computed.", registry=registry
        )
        self._completion_tokens = Counter(
            "sda_completion_tokens",
            "Tokens that were decoded: answers, base responses and revisions that were dropped.",
            registry=registry,
        )
        self._first_token = Histogram(
            "sda_time_to_first_token_seconds",
            "Seconds from a request to the first token of its answer.",
            buckets=_FIRST_TOKEN_SECONDS,
            registry=registry,
        )
        self._per_token = Histogram(
            "sda_time_per_output_token_seconds",
            "Seconds from one token of an answer to the next, on average over the answer.",
            buckets=_TOKEN_SECONDS,
            registry=registry,
        )
        self._cancelled = Counter(
            "sda_cancelled_requests", "Requests whose clients went away before the answer was whole.", registry=registry
        )
        self._failures = Counter(
            "sda_evaluator_failures", "Ratings that failed, by evaluator.", ["evaluator"], registry=registry
        )
        registry.register(_EngineNumbers(engine, evaluators))

    def began(self) -> None:
        """A request has come."""
        self._running.inc()

    def ended(self, route: str, status: int, seconds: float) -> None:
        """Its reply has ended, after so many seconds; 499 stands for a client that went away without one."""
        self._running.dec()
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def began_to_answer(self, seconds: float) -> None:
        """The first token of an answer has come, so many seconds after the request."""
        self._first_token.observe(seconds)

    def decoded(self, tokens: int, seconds: float) -> None:
        """An answer's tokens have come, with so many seconds between the first and the last of them."""
        if tokens > 1:
            self._per_token.observe(seconds / (tokens - 1))

    def answered(self, finish_reason: str, *, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> None:
        """An answer is whole."""
        self._answers.labels(finish_reason).inc()
        self._prompt_tokens.inc(prompt_tokens)
        self._cached_tokens.inc(cached_tokens)
        self._completion_tokens.inc(completion_tokens)

    def cancelled(self) -> None:
        """A client has gone away before its answer was whole."""
        self._cancelled.inc()

    def evaluator_failed(self, name: str) -> None:
        """An evaluator gave no score.

        Args:
            name: as requests or replies name it.
        """
        self._failures.labels(self._evaluators.kind(name)).inc()

    def page(self) -> bytes:
        """All numbers, in the text format of Prometheus."""
        return generate_latest(self._registry)


class _EngineNumbers(Collector):
    """What the engine tells of itself, and the breakers of the evaluators, at the moment somebody asks."""

    def __init__(self, engine: SteeringEngine, evaluators: EvaluatorsByName) -> None:
        self._engine = engine
        self._evaluators = evaluators

    def collect(self) -> Iterator[Metric]:
        stats = self._engine.stats()
        for field, text in _NOW.items():
            yield GaugeMetricFamily(f"sda_engine_{field}", text, value=_number(stats, field))
        for field, text in _SO_FAR.items():
            yield CounterMetricFamily(f"sda_engine_{field}", text, value=_number(stats, field))
        breakers = GaugeMetricFamily(
            "sda_evaluator_breaker_open", "1 while an evaluator that kept failing is left alone.", labels=["evaluator"]
        )
        for name, breaker in self._evaluators.breakers():
            breakers.add_metric([name], float(breaker.state == "open"))
        yield breakers


def _number(stats: EngineStats, field: str) -> float:
    return float(getattr(stats, field))


_NOW = {
    "requests": "Requests taken on and not ended: running, waiting, or with their evaluator.",
    "waiting_tasks": "Tasks that wait for rows or memory.",
    "running_tasks": "Base responses, answers and ratings that are being decoded or read.",
    "rows": "Rows that the next forward pass may run.",
    "held_tokens": "Tokens whose keys and values rows hold.",
    "stored_tokens": "Tokens whose keys and values are stored for prompts that begin alike.",
    "cache_tokens": "The most tokens that may be held, those stored included.",
    "picture_bytes": "Bytes of what is kept of pictures.",
}
_SO_FAR = {
    "passes": "Forward passes.",
    "pass_seconds": "Seconds of forward passes.",
    "tokens": "Tokens of all rows that went through forward passes.",
    "reused_tokens": "Tokens of prompts that were read from the prefix store.",
    "evictions": "Times that a request between two tasks lent its memory.",
    "preemptions": "Times that a task had to compute its rows again.",
    "pictures_read": "Times that the vision tower ran.",
}
