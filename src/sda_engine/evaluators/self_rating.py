"""SelfRatingEvaluator: the model rates its own response, read from how likely it finds each rating."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, get_args

from sda_engine.errors import ConfigError, EvaluationError
from sda_engine.evaluators.protocol import EvaluationRequest, LocalModel, Score
from sda_engine.evaluators.verdict import make_rating_prompt
from sda_engine.settings import shown

if TYPE_CHECKING:
    from torch import Tensor

Scale = Literal["digits", "yes_no"]

_TASKS: Mapping[Scale, str] = MappingProxyType(
    {
        "digits": "Rate the response from 1 (as bad as can be under the rubric) to 9 (could not be better). "
        "Answer with that one digit and nothing else.",
        "yes_no": "Is the response good under the rubric? Answer with yes or no and nothing else.",
    }
)
_RATINGS: Mapping[Scale, Mapping[str, float]] = MappingProxyType(
    {
        "digits": {str(digit): (digit - 1) / 8 for digit in range(1, 10)},
        "yes_no": {"yes": 1.0, "Yes": 1.0, "no": 0.0, "No": 0.0},
    }
)  # what is read of the distribution, and what share of the full score it stands for
_LEAST = 1e-6  # of the score range: a score is above 0


class SelfRatingEvaluator:
    """Has the model that gave the response rate it, or another local model.

    The rating is not sampled: the model's distribution over the ratings is read after the rating prompt, and the score
    is its mean, from 0 (all probability on the worst rating) to 100. That costs one pass over conversation, response
    and rubric. Text to be rated is fenced as for any other judge; a model that is persuaded by it stays persuaded.

    A 135M model hardly tells good from bad this way, so it is no default: run `sda evaluators check` on your own model
    and data before you rely on it.

    Args:
        model: who rates, such as a SteeringEngine; None means the model that gave the response.
        scale: "digits" reads the ratings 1 to 9, "yes_no" the answers yes and no.

    Raises:
        ConfigError: an argument is of no legal kind.
    """

    needs_response = True

    def __init__(self, model: LocalModel | None = None, *, scale: Scale = "digits") -> None:
        if scale not in get_args(Scale):
            raise ConfigError(f"SelfRatingEvaluator.scale cannot be {scale!r}: it must be 'digits' or 'yes_no'.")
        if model is not None and not hasattr(model, "continuation_logprobs"):
            raise ConfigError(
                f"SelfRatingEvaluator.model cannot be {shown(model)}: it must be a SteeringEngine or another "
                f"LocalModel, or None for the model that gave the response."
            )
        self.model = model
        self.scale: Scale = scale

    @property
    def needs_model(self) -> bool:
        """Whether the model that gave the response is the one that rates."""
        return self.model is None

    @property
    def name(self) -> str:
        """How results and cache keys call this evaluator."""
        model = "" if self.model is None else f", model={self.model!r}"
        return f"SelfRatingEvaluator(scale={self.scale!r}{model})"

    def __repr__(self) -> str:
        return self.name

    def evaluate(self, request: EvaluationRequest) -> Score:
        """Rate the response of a request.

        Raises:
            EvaluationError: there is no model to ask, or it gives no usable distribution.
            SDAError: the model cannot be asked, for instance since the rating prompt is longer than its context window.
        """
        model = self._model(request)
        return self._score(model.continuation_logprobs(self._messages(request), self._ratings))

    async def aevaluate(self, request: EvaluationRequest) -> Score:
        """The same for an event loop."""
        model = self._model(request)
        return self._score(await model.acontinuation_logprobs(self._messages(request), self._ratings))

    @property
    def _ratings(self) -> Sequence[str]:
        return tuple(_RATINGS[self.scale])

    def _model(self, request: EvaluationRequest) -> LocalModel:
        model = request.model if self.model is None else self.model
        if model is None:
            raise EvaluationError(
                "SelfRatingEvaluator has no model to ask: the engine gives its own in EvaluationRequest.model; outside "
                "of one, pass SelfRatingEvaluator(model=engine) or call engine.rate(...).",
                base_response=request.response,
            )
        return model

    def _messages(self, request: EvaluationRequest) -> list[dict[str, object]]:
        prompt = make_rating_prompt(request, _TASKS[self.scale], code=_code(request))
        return [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}]

    def _score(self, logprobs: "Tensor") -> Score:
        """The score of a distribution over the ratings, (ratings,) nats, which need not sum to one."""
        probabilities = logprobs.cpu().double().exp()
        mass = float(probabilities.sum())
        if not (math.isfinite(mass) and mass > 0):
            raise EvaluationError(f"The model's distribution over the ratings sums to {mass}: no score.")
        shares = list(_RATINGS[self.scale].values())
        share = sum(weight * rating for weight, rating in zip(probabilities.tolist(), shares, strict=True)) / mass
        return Score(
            value=100.0 * min(1.0, max(_LEAST, share)),
            evaluator=self.name,
            reason=f"mean of the model's distribution over {', '.join(self._ratings)}, which hold {mass:.1%} of it",
        )


def _code(request: EvaluationRequest) -> str:
    """The code of the fences: always the same for the same texts, so that the score is too.

    A text that is to forge a fence would have to contain a hash of itself.
    """
    texts = json.dumps([list(request.messages), request.response, request.alignment.rating_rubric], default=str)
    return hashlib.sha256(texts.encode(errors="surrogatepass")).hexdigest()[:16]
