"""ContrastiveEvaluator: the model's own two contexts rate the base response; no second model, no network."""

import math

from sda_engine.errors import ConfigError, EvaluationError
from sda_engine.evaluators.protocol import EvaluationRequest, Score


class ContrastiveEvaluator:
    """Rates a response by whether the alignment instruction makes it more or less likely.

    With G = mean over the response's tokens of log P2(y_t) - log P1(y_t), in nats per token, the score is
    100 / (1 + exp(-sharpness * G)): 50 where the instruction changes nothing, higher where the response is
    what the instruction asks for. Of a combined alignment, P2 is the mixture of the instructed contexts. It costs
    one forward pass over the response. The paper names contrastive self-evaluation as future work; the mapping to a
    score is ours.

    What it can tell depends on the dimension. With SmolLM2-135M it tells answers that hold a keyword asked for from
    others (IFEval, 40 answers sampled with the instruction: AUC 0.83, 95% interval 0.70 to 0.93), but hardly those
    without a forbidden word (80 answers: 0.57, 0.38 to 0.70), and not true answers from false ones (TruthfulQA, 200
    answers: 0.51, 0.45 to 0.56). There its mapping is too sure of itself as well: its Brier score is 0.28 to 0.30,
    where a constant 50 has 0.25. So it is no default: run `sda evaluators check` on your own model and data before you
    rely on it, and lower `sharpness` where the scores are too far from 50 (`benchmarks/evaluators.py` made these
    figures).

    Args:
        sharpness: how fast the score leaves 50, per nat per token; above 0.

    Raises:
        ConfigError: sharpness is not a number above 0.
    """

    needs_response = True
    needs_logprobs = True

    def __init__(self, sharpness: float = 4.0) -> None:
        if isinstance(sharpness, bool) or not isinstance(sharpness, (int, float)) or not 0 < sharpness < math.inf:
            raise ConfigError(
                f"ContrastiveEvaluator.sharpness cannot be {sharpness!r}: it must be a number above 0. "
                f"The default is 4.0."
            )
        self.sharpness = float(sharpness)

    @property
    def name(self) -> str:
        """How results and cache keys call this evaluator."""
        return f"ContrastiveEvaluator(sharpness={repr(self.sharpness).removesuffix('.0')})"

    def __repr__(self) -> str:
        return self.name

    def evaluate(self, request: EvaluationRequest) -> Score:
        """Rate a response whose log-probabilities under both contexts are given.

        Raises:
            EvaluationError: the response is empty, or its log-probabilities are missing, not finite or of
                different lengths.
        """
        base, instructed = request.base_logprobs, request.instructed_logprobs
        if base is None or instructed is None:
            raise EvaluationError(
                "ContrastiveEvaluator needs base_logprobs and instructed_logprobs in its EvaluationRequest; the "
                "engine fills them in where the alignment has an instruction."
            )
        if base.numel() == 0:
            raise EvaluationError("The base response is empty, so ContrastiveEvaluator has no token to rate.")
        if base.shape != instructed.shape:
            raise EvaluationError(
                f"base_logprobs has {base.numel()} tokens and instructed_logprobs {instructed.numel()}: both "
                f"must cover the tokens of the same base response."
            )
        gain = float((instructed.cpu().double() - base.cpu().double()).mean())
        if not math.isfinite(gain):
            raise EvaluationError(f"The mean log-probability ratio of the base response is {gain}: no score.")
        logit = max(-30.0, min(30.0, self.sharpness * gain))  # keeps the score above 0 and exp() in range
        return Score(
            value=100.0 / (1.0 + math.exp(-logit)),
            evaluator=self.name,
            reason=f"mean log-probability ratio {gain:+.4f} nats per token over {base.numel()} tokens",
        )

    async def aevaluate(self, request: EvaluationRequest) -> Score:
        """The same as `evaluate`: a mean over a few hundred numbers blocks nobody."""
        return self.evaluate(request)
