"""What a step did, told in the logits that it leaves for vLLM's sampler.

vLLM hands back nothing of a step but the token and log-probabilities. So the row that the client sees gets logits of
which the log-probabilities say all that is worth knowing: the drawn token stands highest, the most likely tokens follow
in a band of their own, and some tokens that are none of these carry numbers in a band far below. Only differences to
the drawn token count, since vLLM normalises. A row without numbers tells of a failure.
"""

from collections.abc import Mapping, Sequence
from enum import Enum

from sda_engine.decoding.wanted import Chosen
from sda_engine.errors import NumericalError, SDAError

_LIKELY = -1.0  # where the band of the most likely tokens begins
_LOWEST = -120.0  # nats: log-probabilities are told down to this
_NUMBERS = -260.0  # where the band of the numbers begins; float32 resolves 3e-5 there
_MOST = 118.0  # what a number may be, once it is scaled
_SCALES = (1.0, 100.0, 10.0, 100.0, 1.0)  # of logprob, divergence, temperature, position and spent
_DUST = 1e-4  # what rounding may leave of a number that is 0
_ABSENT = 120.0  # in place of a number that there is not

CARRIERS = 8
"""Tokens that carry numbers: the five above, and the drawn token's log-probability in up to three contexts."""

Cells = tuple[list[int], list[float]]
"""Columns of a row, and the logits there; all others are -inf."""


class Failure(Enum):
    """Why a group has no token."""

    NO_DISTRIBUTION = 1
    ERROR = 2
    LOST = 3


def report_logprobs(top: int | None) -> int:
    """How many log-probabilities vLLM has to return for a request that wants so many of the most likely tokens."""
    return 1 + (top or 0) + CARRIERS


def report_cells(chosen: Chosen, top: int | None) -> Cells:
    """The row of a step.

    Args:
        chosen: what came of it.
        top: how many of the most likely tokens to tell.
    """
    likely = [(token_id, value) for token_id, value in chosen.steered[: top or 0] if token_id != chosen.token_id]
    columns = [chosen.token_id, *(token_id for token_id, _ in likely)]
    values = [0.0, *(_LIKELY + max(value, _LOWEST) for _, value in likely)]
    numbers = [
        -chosen.logprob,
        chosen.divergence,
        chosen.temperature,
        chosen.position,
        chosen.spent,
    ]
    scaled = [_ABSENT if one is None else one * scale for one, scale in zip(numbers, _SCALES, strict=True)]
    scaled += [-value for value in chosen.row_logprobs.values()]
    scaled += [_ABSENT] * (CARRIERS - len(scaled))
    for carrier, number in zip(_carriers(columns), scaled, strict=True):
        columns.append(carrier)
        values.append(_NUMBERS - (number if number == _ABSENT else min(max(number, 0.0), _MOST)))
    return columns, values


def failure_cells(failure: Failure, token_id: int) -> Cells:
    """The row of a step that failed: the answer ends, and a single number says why."""
    return [token_id, 0 if token_id else 1], [0.0, _NUMBERS - failure.value]


def read_report(token_id: int, logprobs: Mapping[int, float], row_names: Sequence[str], top: int | None) -> Chosen:
    """What a step did, by the log-probabilities that vLLM returned for its token.

    Args:
        row_names: the contexts of the answer, the base one first.
        top: how many of the most likely tokens were to be told.

    Raises:
        NumericalError: there was nothing to sample from.
        SDAError: the step failed otherwise.
    """
    highest = logprobs[token_id]
    told = {number: value - highest for number, value in logprobs.items() if number != token_id}
    numbers = [_NUMBERS - value for _, value in sorted(told.items()) if _NUMBERS - _ABSENT - 1 <= value <= _NUMBERS + 1]
    if len(numbers) != CARRIERS:
        raise _failed(round(numbers[0]) if len(numbers) == 1 else 0)
    logprob, divergence, temperature, position, spent = (
        None if abs(number - _ABSENT) < 0.5 else 0.0 if number < _DUST else number / scale
        for number, scale in zip(numbers, _SCALES, strict=False)
    )
    rows = dict(zip(row_names, (-number for number in numbers[len(_SCALES) :]), strict=False))
    if logprob is None or divergence is None or temperature is None:
        raise _failed(Failure.ERROR.value)
    steered = [(number, value - _LIKELY) for number, value in told.items() if value > _NUMBERS + 1]
    steered.append((token_id, -logprob))
    steered.sort(key=lambda pair: -pair[1])
    return Chosen(
        token_id=token_id,
        broken=False,
        divergence=divergence,
        temperature=temperature,
        position=position,
        spent=spent,
        logprob=-logprob,
        row_logprobs=rows,
        base=(),
        instructed=(),
        steered=steered[: top or 0],
        masked=False,
    )


def _carriers(taken: Sequence[int]) -> list[int]:
    """The smallest token ids that are not taken; they tell the order of the numbers."""
    free = (number for number in range(len(taken) + CARRIERS) if number not in set(taken))
    return [number for number, _ in zip(free, range(CARRIERS), strict=False)]


def _failed(code: int) -> SDAError:
    if code == Failure.NO_DISTRIBUTION.value:
        return NumericalError(
            "The model's logits hold NaN or nothing but -inf, so there is nothing to sample from. Start vLLM with "
            "--dtype float32, and check the model's weights."
        )
    if code == Failure.LOST.value:
        return SDAError("vLLM lost the state of this request. Send it again; the log of vLLM's engine tells more.")
    return SDAError("Steering failed inside vLLM for this request alone; the log of vLLM's engine tells why.")
