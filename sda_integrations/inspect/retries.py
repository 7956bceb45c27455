"""Which failures Inspect tries again."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from inspect_ai.model import RetryDecision

from sda_engine.errors import EvaluationError, QueueFullError, ServerError
from sda_engine.evaluators import Evaluator


class JudgeFailedError(EvaluationError):
    """A judge behind a server failed, after its own tries."""


def decide_retry(error: Exception) -> RetryDecision:
    """Whether a request is worth another try.

    A full queue empties, and a server that failed or was not reached may be there again. Of ratings that failed, when
    the evaluator's own tries are spent, a rate limit, a fault of the server, a lost connection, a late or an unreadable
    verdict of a judge may pass. What its server refuses for good (a key, an address) does not, nor does the failure of
    an evaluator that asks no server, nor anything else.
    """
    if isinstance(error, QueueFullError):
        return RetryDecision.rate_limit()
    if isinstance(error, ServerError):
        passing = error.status is None or error.status == 429 or error.status >= 500
        return RetryDecision.transient() if passing else RetryDecision.no()
    return _decide_rating(error) if isinstance(error, EvaluationError) else RetryDecision.no()


@contextmanager
def told_apart(evaluator: Evaluator) -> Iterator[None]:
    """Around a rating: the failure of a judge behind a server becomes a JudgeFailedError.

    Raises:
        EvaluationError: the evaluator failed.
    """
    try:
        yield
    except EvaluationError as error:
        judges = sys.modules.get("sda_engine.evaluators.judge")  # which brings the OpenAI SDK, if there is any judge
        if judges is not None and isinstance(evaluator, judges.JudgeEvaluator):
            raise JudgeFailedError(str(error), base_response=error.base_response) from error
        raise


def _decide_rating(error: EvaluationError) -> RetryDecision:
    cause: BaseException | None = error
    judged = False
    while cause is not None:
        status = getattr(cause, "status_code", None)
        if isinstance(status, int):
            if status == 429:
                return RetryDecision.rate_limit()
            return RetryDecision.transient() if status == 408 or status >= 500 else RetryDecision.no()
        judged = judged or isinstance(cause, JudgeFailedError)
        cause = cause.__cause__
    return RetryDecision.transient() if judged else RetryDecision.no()
