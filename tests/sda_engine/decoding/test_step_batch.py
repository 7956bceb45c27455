"""Many answers in one step: what each gets is what it gets alone, and an accelerator would be waited for once."""

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sda_engine import Sampling, Steering
from sda_engine.decoding.row_group import DecodeSettings, RowGroup
from sda_engine.decoding.step_batch import choose
from sda_engine.decoding.wanted import Chosen, Wanted
from sda_engine.errors import ConfigError, NumericalError
from sda_engine.prompts import AVOIDED, BASE, INSTRUCTED
from sda_engine.steering import Budget, entropy, precision, sample, steered_step
from tests.sda_engine.decoding.steps import advance, advance_all

VOCAB = 2000
GREEDY, SAMPLED = Sampling(temperature=0), Sampling(temperature=0.8, top_p=0.9, seed=3)
TWO_ROWS = (BASE, INSTRUCTED)
EOS = 7


def logits_of(rows, seed=0, spread=3.0):
    """(vocab,) for each row."""
    base, *others = torch.randn((len(rows), VOCAB), generator=torch.Generator().manual_seed(seed)) * spread
    return {name: base + other / 2 for name, other in zip(rows, (torch.zeros(VOCAB), *others), strict=True)}


def wanted(rows=TWO_ROWS, *, seed=0, spread=3.0, sampling=SAMPLED, steering=None, **more):
    settings = {"strength": 1.5, "avoid_strength": 0.5, "uniform": (0.37 + 0.11 * seed) % 1, **more}
    return Wanted(logits_of(rows, seed, spread), steering or Steering(), sampling, **settings)


def make_group(tokenizer, *, rows=TWO_ROWS, sampling=SAMPLED, steering=None, **more):
    settings = DecodeSettings(
        rows=rows,
        strength=1.5,
        avoid_strength=0.5,
        steering=steering or Steering(),
        sampling=sampling,
        stop=(),
        max_new_tokens=100,
        eos_token_ids=frozenset({EOS}),
        **more,
    )
    return RowGroup(settings, tokenizer)


def alone(asked):
    (came,) = choose([asked])
    if isinstance(came, BaseException):
        raise came
    return came


def check_alike(came, expected):
    assert came.token_id == expected.token_id
    for field in ("divergence", "temperature", "position", "spent", "logprob"):
        assert getattr(came, field) == pytest.approx(getattr(expected, field), abs=1e-6), field
    assert came.row_logprobs == pytest.approx(expected.row_logprobs, abs=1e-5)
    for field in ("base", "instructed", "steered"):
        ours, theirs = getattr(came, field), getattr(expected, field)
        assert [token for token, _ in ours] == [token for token, _ in theirs]
        assert [logprob for _, logprob in ours] == pytest.approx([logprob for _, logprob in theirs], abs=1e-5)
    assert came.entropies == (expected.entropies and pytest.approx(expected.entropies, abs=1e-5))


MIXED = [
    wanted((BASE,), seed=1, strength=0.0),
    wanted(seed=2),
    wanted(seed=3, sampling=GREEDY),
    wanted((*TWO_ROWS, AVOIDED), seed=4, sampling=Sampling(temperature=1.0, top_k=5, logprobs=5)),
    wanted((BASE, AVOIDED), seed=5, sampling=Sampling(temperature=1.2, top_p=None, min_p=0.1)),
    wanted(seed=6, budget=0.2),
    wanted(seed=7, budget=math.inf, sampling=GREEDY),
    wanted(seed=8, steering=Steering(plausibility=0.1, temperature_schedule="critical_tokens")),
    wanted(seed=9, strength=0.0, watched=True),
    wanted(seed=10, watched=True, sampling=Sampling(temperature=1.0, top_p=None)),
    wanted(seed=11, steering=Steering(temperature_schedule=lambda signals: signals.divergence + 0.3)),
    wanted(seed=12, given=5),
    wanted(seed=13, sampling=Sampling(temperature=0.8, top_k=3, logprobs=0)),
    wanted(seed=14, critical_tokens=torch.arange(VOCAB) % 2 == 0, steering=Steering(temperature_schedule="divergence")),
]


@pytest.mark.parametrize("looks", [True, False], ids=["on a CPU", "as on an accelerator"])
def test_every_answer_gets_in_company_what_it_gets_alone(monkeypatch, looks):
    expected = [alone(asked) for asked in MIXED]
    monkeypatch.setattr(precision, "can_look", lambda values: looks)
    for came, one in zip(choose([*MIXED, *MIXED, *MIXED]), expected * 3, strict=True):
        check_alike(came, one)


@pytest.mark.parametrize("number", range(len(MIXED)))
def test_what_came_of_a_step_is_what_the_public_functions_give(number):
    asked = MIXED[number]
    came, sampling, steering = alone(asked), asked.sampling, asked.steering
    contexts = {name: values.unsqueeze(0) for name, values in asked.logits.items()}
    step = steered_step(
        contexts[BASE],
        contexts.get(INSTRUCTED),
        strength=asked.strength,
        temperature=sampling.temperature,
        plausibility=steering.plausibility,
        avoided_logits=contexts.get(AVOIDED),
        avoid_strength=asked.avoid_strength,
        schedule=asked.schedule,
        critical_tokens=asked.critical_tokens,
        budget=asked.budget,
    )
    limits = {"top_k": sampling.top_k, "top_p": sampling.top_p, "min_p": sampling.min_p}
    limits = {name: torch.tensor([limit]) for name, limit in limits.items() if limit is not None}
    drawn = sample(step.logprobs, torch.tensor([asked.uniform], dtype=torch.float64), **limits).item()
    assert came.token_id == (drawn if asked.given is None else asked.given)
    assert came.divergence == pytest.approx(step.divergence.item(), abs=1e-6)
    assert came.temperature == pytest.approx(step.temperature.item(), abs=1e-6)
    assert came.logprob == pytest.approx(step.steered_logprobs[0, came.token_id].item(), abs=1e-5)
    assert came.row_logprobs[BASE] == pytest.approx(step.base_logprobs[0, came.token_id].item(), abs=1e-5)
    best = step.steered_logprobs[0].topk(max(3, sampling.logprobs or 0))
    assert [token_id for token_id, _ in came.steered] == best.indices.tolist()
    assert [logprob for _, logprob in came.steered] == pytest.approx(best.values.tolist(), abs=1e-5)
    assert [token_id for token_id, _ in came.base] == step.base_logprobs[0].topk(3).indices.tolist()
    assert [token_id for token_id, _ in came.instructed] == step.instructed_logprobs[0].topk(3).indices.tolist()
    if asked.budget is not None:
        assert (came.position, came.spent) == pytest.approx((step.position.item(), step.spent.item()), abs=1e-6)
    if asked.watched:
        entropies = entropy(step.logprobs).item(), entropy(step.base_logprobs).item()
        assert came.entropies == pytest.approx(entropies, abs=1e-4)


# --- failures


@pytest.mark.parametrize("error", [ZeroDivisionError("oops"), SystemExit(3), StopIteration()])
def test_a_schedule_that_raises_fails_its_own_answer_alone(error):
    def broken(signals):
        raise error

    asked = [wanted(seed=1), wanted(seed=2, steering=Steering(temperature_schedule=broken)), wanted(seed=3)]
    came = choose(asked)
    assert came[1] is error
    check_alike(came[0], alone(asked[0]))
    check_alike(came[2], alone(asked[2]))


def test_a_schedule_that_knows_one_row_at_a_time_is_given_one():
    asked = [
        wanted(seed=seed, steering=Steering(temperature_schedule=lambda signals: signals.divergence.item()))
        for seed in range(3)
    ]
    shared = [replace(one, steering=asked[0].steering) for one in asked]
    for came, one in zip(choose(shared), asked, strict=True):
        check_alike(came, alone(one))


def test_of_answers_with_one_schedule_the_one_it_fails_fails():
    schedule = lambda signals: torch.where(signals.temperature > 0.8, -1.0, signals.temperature)  # noqa: E731
    samplings = [SAMPLED, Sampling(temperature=0.9), SAMPLED]
    came = choose([wanted(sampling=one, steering=Steering(temperature_schedule=schedule)) for one in samplings])
    assert [type(one) for one in came] == [Chosen, ConfigError, Chosen]


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_nan_in_one_answer_touches_no_other(tokenizer, sampling, wrong):
    groups = [make_group(tokenizer, sampling=sampling) for _ in range(3)]
    logits = [list(logits_of(TWO_ROWS, seed).values()) for seed in range(3)]
    expected = [advance(make_group(tokenizer, sampling=sampling), rows).token_id for rows in logits]
    logits[1][1][9] = wrong
    came = advance_all(groups, logits)
    assert isinstance(came[1], NumericalError)
    assert [came[0].token_id, came[2].token_id] == [expected[0], expected[2]]


# --- masked tokens


@pytest.mark.parametrize("rows", [(BASE,), TWO_ROWS, (BASE, AVOIDED), (*TWO_ROWS, AVOIDED)])
@pytest.mark.parametrize("budget", [None, 0.3])
@pytest.mark.parametrize("where", ["everywhere", "in the base context", "in the last one"])
def test_masked_tokens_need_no_telling_of(rows, budget, where):
    asked = wanted(rows, budget=budget, strength=1.5 if len(rows) > 1 else 0.0)
    masked = {"everywhere": rows, "in the base context": rows[:1], "in the last one": rows[-1:]}[where]
    for name in masked:
        asked.logits[name][::2] = -math.inf
    check_alike(alone(asked), alone(replace(asked, masked=True)))


def test_a_group_remembers_that_its_model_masks_tokens(tokenizer, monkeypatch):
    steps = []
    monkeypatch.setattr(
        "sda_engine.decoding.step_batch.steered_step",
        lambda *given, **settings: steps.append(settings["masked"]) or steered_step(*given, **settings),
    )
    group = make_group(tokenizer)
    logits = list(logits_of(TWO_ROWS).values())
    for row in logits:
        row[-8:] = -math.inf
    for _ in range(3):
        advance(group, logits)
    assert steps == [False, True, True, True]


# --- answers that ask again


@pytest.mark.parametrize("looks", [True, False], ids=["on a CPU", "as on an accelerator"])
@pytest.mark.parametrize("uniform", [0.0, 0.3, 0.97, 0.99999])
@pytest.mark.parametrize("top_p", [None, 0.98])
def test_a_token_beyond_the_first_candidates_is_found(monkeypatch, looks, uniform, top_p):
    monkeypatch.setattr(precision, "can_look", lambda values: looks)
    asked = wanted(spread=0.1, uniform=uniform, sampling=Sampling(temperature=1.0, top_p=top_p))
    came = choose([wanted(seed=5), asked])[1]
    step = steered_step(*(values.unsqueeze(0) for values in asked.logits.values()), strength=1.5, temperature=1.0)
    best = step.logprobs[0].double().exp().sort(descending=True)
    mass = best.values.cumsum(0)
    kept = VOCAB if top_p is None else int((mass < top_p).sum()) + 1
    place = int((mass <= uniform * mass[kept - 1]).sum())
    assert abs(best.indices.tolist().index(came.token_id) - place) <= 1, "rounding may take a neighbour"


def test_a_reserve_opens_where_the_answer_would_end_and_the_end_is_masked(tokenizer):
    budget = Budget(opening=0.0, reserve=5.0, goes_on=True)
    group = make_group(tokenizer, sampling=GREEDY, budget=budget)
    base, instructed = torch.zeros(VOCAB), torch.zeros(VOCAB)
    base[EOS], instructed[EOS] = 9.0, 9.0
    instructed[60] = 6.0
    other = make_group(tokenizer, sampling=GREEDY, budget=Budget(opening=0.0, reserve=0.0))
    first, ended = advance_all([group, other], [[base, instructed], [base, instructed]])
    assert (first.token_id, first.finish_reason) == (60, None)
    assert (ended.token_id, ended.finish_reason) == (EOS, "stop")
    (traced,) = group.result(None).tokens
    assert traced.position > 0
    assert traced.spent > 0
    assert advance(group, [base, instructed]).token_id == EOS, "there is no second reserve"


# --- what an accelerator would be waited for


class Waits(TorchDispatchMode):
    """Counts the values that are read off tensors one by one."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


KINDS = {
    "plain": {"rows": (BASE,)},
    "greedy": {"sampling": GREEDY},
    "sampled": {},
    "avoided": {"rows": (*TWO_ROWS, AVOIDED)},
    "log-probabilities": {"sampling": Sampling(temperature=0.6, logprobs=5)},
    "guarded": {"steering": Steering(guard="relax")},
    "on a budget": {"budget": Budget(opening=1.0, reserve=1.0)},
    "with critical tokens": {
        "steering": Steering(temperature_schedule="critical_tokens"),
        "critical_tokens": torch.arange(VOCAB) % 2 == 0,
    },
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 8, 32])
def test_an_accelerator_is_waited_for_once_however_many_answers_there_are(tokenizer, monkeypatch, kind, count):
    monkeypatch.setattr(precision, "can_look", lambda values: False)
    transfers = Counter()
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda values: transfers.update([values.numel() > 1]) or tolist(values))
    groups = [make_group(tokenizer, **KINDS[kind]) for _ in range(count)]
    rows = KINDS[kind].get("rows", TWO_ROWS)
    logits = [list(logits_of(rows, seed).values()) for seed in range(count)]
    with Waits() as waits:
        tokens = advance_all(groups, logits)
    assert all(not isinstance(token, BaseException) for token in tokens)
    assert waits.count == 0
    assert transfers == {True: 1, False: count}  # the latter are the random numbers, which are drawn on the CPU
