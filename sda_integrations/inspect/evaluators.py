"""Evaluators by name, as texts of a command line or of a study give them."""

import asyncio
import math
import time

from sda_engine.cli.evaluator_specs import make_evaluator
from sda_engine.errors import ConfigError
from sda_engine.evaluators import EvaluationRequest, Evaluator, Score
from sda_engine.settings import check_argument, shown
from sda_engine.wire import ServerEvaluator

_SIMULATED = "simulated"
_OF_THE_SERVER = "server"
_SCORE = 50.0


class SimulatedEvaluator:
    """Has a base response decoded, waits, and gives it 50 points: what a judge costs in time, without the judge.

    Args:
        seconds: how long each rating takes; at least 0.

    Raises:
        ConfigError: the seconds are out of range.
    """

    needs_response = True

    def __init__(self, seconds: float) -> None:
        legal = isinstance(seconds, (int, float)) and 0 <= seconds < math.inf
        check_argument("SimulatedEvaluator", "seconds", seconds, legal, "a finite number of at least 0")
        self.seconds = float(seconds)

    @property
    def name(self) -> str:
        """How results and cache keys call this evaluator."""
        return f"SimulatedEvaluator({self.seconds:g})"

    def __repr__(self) -> str:
        return self.name

    def evaluate(self, request: EvaluationRequest) -> Score:
        """50, after the wait."""
        time.sleep(self.seconds)
        return Score(value=_SCORE, evaluator=self.name)

    async def aevaluate(self, request: EvaluationRequest) -> Score:
        """50, after the wait, in which an event loop goes on."""
        await asyncio.sleep(self.seconds)
        return Score(value=_SCORE, evaluator=self.name)


class EvaluatorReader:
    """Makes evaluators from texts, each once, so that requests share a judge's connections and what it has learnt.

    Args:
        url: address of the OpenAI-compatible server that "openai:MODEL" asks; None means OpenAI itself.
    """

    def __init__(self, url: str | None = None) -> None:
        self._url = url
        self._made: dict[str, Evaluator] = {}

    def read(self, name: str, value: object) -> Evaluator | None:
        """The evaluator that a value means: a text such as "contrastive", "openai:gpt-4.1" or "simulated:2", or one.

        Args:
            name: the argument's name, for errors.
            value: a text, an Evaluator, or None for none.

        Raises:
            ConfigError: it is no evaluator.
        """
        if value is None or (isinstance(value, Evaluator) and not isinstance(value, type)):
            return value
        if not isinstance(value, str):
            raise ConfigError(
                f"{name} cannot be {shown(value)}: it must be a text such as 'contrastive', 'openai:gpt-4.1' or "
                f"'simulated:2', or an evaluator."
            )
        if value not in self._made:
            self._made[value] = self._make(name, value)
        return self._made[value]

    def _make(self, name: str, spec: str) -> Evaluator:
        kind, _, argument = spec.partition(":")
        try:
            if kind == _SIMULATED:
                return SimulatedEvaluator(float(argument))
            if kind == _OF_THE_SERVER:
                return ServerEvaluator(argument)
            return make_evaluator(spec, self._url if kind == "openai" else None)
        except (ConfigError, ValueError) as error:
            raise ConfigError(
                f"{name} cannot be {spec!r}: {error} Here it may also be {_SIMULATED}:SECONDS, which waits and gives "
                f"{_SCORE:g} points, and with a base_url {_OF_THE_SERVER}:NAME, an evaluator of the server."
            ) from error
