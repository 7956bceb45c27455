"""UncertaintyEvaluator: how sure the model was of its base response, as the score; no second model, no network."""

import math
from typing import Literal, get_args

from torch import Tensor

from sda_engine.errors import ConfigError, EvaluationError
from sda_engine.evaluators.protocol import EvaluationRequest, Score

Aggregate = Literal["mean", "tail"]
_LEAST_EXPONENT = -30.0  # keeps the score above 0


class UncertaintyEvaluator:
    """Rates a response by how likely the model itself finds it, in the base context.

    The score is 100 * exp(L / scale), with L = mean over the response's tokens of log P1(y_t), in nats per token. At
    scale 1 it is 100 times the geometric mean of the tokens' probabilities, 100 / perplexity; another scale raises that
    mean to the power 1 / scale. The mean makes responses of any length comparable, which a sum would not.

    With `aggregate="tail"`, L is the mean over the least likely tenth of the tokens alone, rounded up to whole tokens.
    Most tokens of a text are next to certain and say nothing; but L is then several times lower, so that a larger scale
    is needed to spread the scores.

    The log-probabilities are those of the model at temperature 1, however the response was sampled: a low temperature
    or top_p makes responses that are likelier than the model's average one, and so raises their scores. The
    end-of-sequence token does not count. The score tells nothing of the alignment: a response can be likely and wrong.
    It costs one forward pass over the response. The paper names intrinsic uncertainty as future work; the mapping to a
    score is ours.

    Args:
        scale: nats per token at which the score has fallen to 36.8 (100 / e); above 0.
        aggregate: "mean" or "tail".

    Raises:
        ConfigError: scale is not a number above 0, or there is no such aggregate.
    """

    needs_response = True
    needs_logprobs = True

    def __init__(self, scale: float = 1.0, *, aggregate: Aggregate = "mean") -> None:
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale < math.inf:
            raise ConfigError(
                f"UncertaintyEvaluator.scale cannot be {scale!r}: it must be a number above 0. The default is 1.0."
            )
        if aggregate not in get_args(Aggregate):
            raise ConfigError(
                f"UncertaintyEvaluator.aggregate cannot be {aggregate!r}: it must be 'mean' or 'tail'. The default is "
                f"'mean'."
            )
        self.scale = float(scale)
        self.aggregate: Aggregate = aggregate

    @property
    def name(self) -> str:
        """How results and cache keys call this evaluator."""
        return f"UncertaintyEvaluator(scale={repr(self.scale).removesuffix('.0')}, aggregate={self.aggregate!r})"

    def __repr__(self) -> str:
        return self.name

    def evaluate(self, request: EvaluationRequest) -> Score:
        """Rate a response whose log-probabilities in the base context are given.

        Raises:
            EvaluationError: the response is empty, or its log-probabilities are missing or not finite.
        """
        logprobs = request.base_logprobs
        if logprobs is None:
            raise EvaluationError(
                "UncertaintyEvaluator needs base_logprobs in its EvaluationRequest. The engine fills them in; a "
                "request of your own has to bring (tokens,) log-probabilities in nats."
            )
        if logprobs.numel() == 0:
            raise EvaluationError(
                "The base response is empty, so UncertaintyEvaluator has no token to rate. Give it a response of at "
                "least one token."
            )
        counted = _least_likely_tenth(logprobs) if self.aggregate == "tail" else logprobs
        level = float(counted.cpu().double().mean())
        if not math.isfinite(level):
            raise EvaluationError(
                f"The mean log-probability of the base response is {level}: no score. Load the model with "
                f"dtype='float32', should its logits overflow."
            )
        which = "the least likely " if self.aggregate == "tail" else ""
        return Score(
            value=100.0 * math.exp(min(0.0, max(_LEAST_EXPONENT, level / self.scale))),
            evaluator=self.name,
            reason=f"mean log-probability {level:.4f} nats over {which}{counted.numel()} of {logprobs.numel()} tokens",
        )

    async def aevaluate(self, request: EvaluationRequest) -> Score:
        """The same as `evaluate`: a mean over a few hundred numbers blocks nobody."""
        return self.evaluate(request)


def _least_likely_tenth(logprobs: Tensor) -> Tensor:
    """(tokens / 10, rounded up,) of (tokens,)."""
    if bool(logprobs.isnan().any()):
        return logprobs  # sorting would put it among the likeliest, where it would be overlooked
    return logprobs.sort().values[: math.ceil(logprobs.numel() / 10)]
