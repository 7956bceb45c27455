"""What a step tells in the logits that it leaves comes out of the log-probabilities that vLLM makes of them."""

import math

import pytest
import torch

from sda_engine.decoding.wanted import Chosen
from sda_engine.errors import NumericalError, SDAError
from sda_integrations.vllm.reports import (
    CARRIERS,
    Cells,
    Failure,
    failure_cells,
    read_report,
    report_cells,
    report_logprobs,
)

VOCAB = 300


def chosen(token_id: int = 7, **changes: object) -> Chosen:
    given: dict[str, object] = {
        "token_id": token_id,
        "broken": False,
        "divergence": 0.1234567,
        "temperature": 0.55,
        "position": None,
        "spent": None,
        "logprob": -2.5,
        "row_logprobs": {"base": -3.25, "instructed": -1.75},
        "base": (),
        "instructed": (),
        "steered": ((3, -0.25), (7, -2.5), (0, -4.0)),
        "masked": False,
        **changes,
    }
    return Chosen(**given)  # type: ignore[arg-type]


def returned(cells: Cells, count: int) -> tuple[int, dict[int, float]]:
    """The token that a greedy sampler takes, and the log-probabilities that vLLM returns, as its samplers make them."""
    row = torch.full((VOCAB,), -torch.inf)
    row[cells[0]] = torch.tensor(cells[1])
    logprobs = row.log_softmax(dim=-1, dtype=torch.float32)
    best = logprobs.topk(count)
    token_id = int(row.argmax())
    told = dict(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return token_id, {token_id: float(logprobs[token_id]), **told}


def round_trip(step: Chosen, names: tuple[str, ...], top: int | None) -> Chosen:
    token_id, logprobs = returned(report_cells(step, top), report_logprobs(top))
    assert token_id == step.token_id, "the sampler can take no other"
    return read_report(token_id, logprobs, names, top)


@pytest.mark.parametrize("top", [None, 0, 1, 3])
@pytest.mark.parametrize("token_id", [7, 200, 0, 1])
def test_all_numbers_of_a_step_come_back(token_id: int, top: int | None):
    step = chosen(token_id)
    read = round_trip(step, ("base", "instructed"), top)
    assert read.divergence == pytest.approx(step.divergence, abs=1e-6)
    assert read.temperature == pytest.approx(step.temperature, abs=1e-5)
    assert read.logprob == pytest.approx(step.logprob, abs=1e-4)
    assert read.row_logprobs == pytest.approx(step.row_logprobs, abs=1e-4)
    assert (read.position, read.spent) == (None, None)


def test_a_budget_s_numbers_come_back():
    read = round_trip(chosen(position=0.25, spent=0.75), ("base", "instructed"), None)
    assert (read.position, read.spent) == (pytest.approx(0.25, abs=1e-5), pytest.approx(0.75, abs=1e-4))


def test_the_most_likely_tokens_come_back_best_first_be_the_drawn_one_among_them_or_not():
    among = round_trip(chosen(7), ("base", "instructed"), 3)
    assert [token for token, _ in among.steered] == [3, 7, 0]
    assert [value for _, value in among.steered] == pytest.approx([-0.25, -2.5, -4.0], abs=1e-4)
    outside = round_trip(chosen(200, logprob=-9.0), ("base", "instructed"), 3)
    assert [token for token, _ in outside.steered] == [3, 7, 0]


def test_three_contexts_and_impossible_tokens_come_back_as_far_as_numbers_reach():
    rows = {"base": -1e4, "instructed": -0.5, "avoided": -math.inf}
    read = round_trip(chosen(logprob=-300.0, row_logprobs=rows), tuple(rows), 1)
    assert read.logprob == pytest.approx(-118, abs=1e-3), "so far down all are alike"
    assert read.row_logprobs == pytest.approx({"base": -118, "instructed": -0.5, "avoided": -118}, abs=1e-3)


def test_a_hundred_of_the_most_likely_tokens_with_carriers_among_them_come_back():
    steered = tuple((number, -0.01 * number - 1.0) for number in range(100))
    read = round_trip(chosen(50, logprob=-1.5, steered=steered), ("base", "instructed"), 100)
    assert [token for token, _ in read.steered] == list(range(100))
    assert read.divergence == pytest.approx(0.1234567, abs=1e-6)


@pytest.mark.parametrize(
    ("failure", "error"),
    [(Failure.NO_DISTRIBUTION, NumericalError), (Failure.ERROR, SDAError), (Failure.LOST, SDAError)],
)
@pytest.mark.parametrize("end", [0, 2])
def test_a_failure_ends_the_answer_and_is_an_error(failure: Failure, error: type[SDAError], end: int):
    token_id, logprobs = returned(failure_cells(failure, end), report_logprobs(5))
    assert token_id == end
    with pytest.raises(error):
        read_report(token_id, logprobs, ("base",), 5)


def test_a_row_that_nobody_steered_is_a_failure_and_no_answer():
    logprobs = torch.randn(VOCAB).log_softmax(dim=-1)
    best = logprobs.topk(1 + CARRIERS)
    told = dict(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    with pytest.raises(SDAError, match="log of vLLM"):
        read_report(int(best.indices[0]), told, ("base",), None)
