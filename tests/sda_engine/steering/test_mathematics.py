import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sda_engine.steering import (
    LOG_2,
    TemperatureSignals,
    apply_plausibility,
    apply_temperature,
    constant_schedule,
    critical_tokens_schedule,
    divergence_schedule,
    divergence_temperature,
    entropy,
    js_divergence,
    mix_logits,
    steer,
    steered_step,
    steering_vector,
)

INF = math.inf
BASE = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
INSTRUCTED = torch.tensor([[0.1, 0.3, 0.4, 0.2]]).log()

logits = arrays("float32", (3, 7), elements=st.floats(-20, 20, width=32))


def rows(values):
    return torch.from_numpy(values)


def test_the_steering_vector_is_the_difference_of_the_log_probabilities():
    expected = torch.tensor([[0.25, 1.0, 2.0, 2.0]]).log()
    torch.testing.assert_close(steering_vector(BASE, INSTRUCTED), expected)


def test_steering_multiplies_by_the_probability_ratio_to_the_power_of_the_strength():
    # P2 * (P2 / P1)^2: 0.1 * 1/16, 0.3 * 1, 0.4 * 4, 0.2 * 4
    expected = torch.tensor([[0.00625, 0.3, 1.6, 0.8]])
    torch.testing.assert_close(steer(BASE, INSTRUCTED, 2.0).exp(), expected)


def test_the_step_away_divides_by_the_avoided_ratio():
    avoided = torch.tensor([[0.1, 0.6, 0.2, 0.1]]).log()
    # as above with strength 1, then divided by P3/P1 = 1/4, 2, 1, 1
    expected = torch.tensor([[0.1 / 4 * 4, 0.3 / 2, 0.8, 0.4]])
    torch.testing.assert_close(
        steer(BASE, INSTRUCTED, 1.0, avoided_logprobs=avoided, avoid_strength=1.0).exp(), expected
    )


def test_a_mixture_multiplies_probabilities_to_the_power_of_their_weights():
    other = torch.tensor([[0.4, 0.3, 0.1, 0.2]]).log()
    even = mix_logits([INSTRUCTED, other], [1.0, 1.0]).exp()  # roots of 0.04, 0.09, 0.04, 0.04
    torch.testing.assert_close(even, torch.tensor([[0.2, 0.3, 0.2, 0.2]], dtype=torch.float64))
    thrice = mix_logits([torch.tensor([[1 / 16, 1.0]]).log(), torch.tensor([[1.0, 1 / 16]]).log()], [3.0, 1.0]).exp()
    torch.testing.assert_close(thrice, torch.tensor([[1 / 8, 1 / 2]], dtype=torch.float64))


def test_each_row_of_a_batch_may_have_weights_of_its_own():
    first, second = INSTRUCTED.repeat(3, 1), BASE.repeat(3, 1)
    weights = torch.tensor([[1.0, 1.0], [3.0, 1.0], [1e-300, 1e300]], dtype=torch.float64)
    mixed = mix_logits([first, second], weights)
    for row, pair in enumerate(weights.tolist()):
        torch.testing.assert_close(mixed[row : row + 1], mix_logits([INSTRUCTED, BASE], pair))
    torch.testing.assert_close(mixed[2:], BASE.double())


def test_the_mixture_of_one_context_is_that_context_to_the_bit():
    assert torch.equal(mix_logits([INSTRUCTED], [0.3]), INSTRUCTED)
    half = mix_logits([INSTRUCTED.bfloat16()], torch.tensor([[7.0]]))
    assert half.dtype == torch.float32
    assert torch.equal(half, INSTRUCTED.bfloat16().float())
    wide = INSTRUCTED.double()
    assert mix_logits([wide], [1.0]) is wide


def test_a_mixture_in_float64_is_steered_in_it_and_reported_in_float32():
    mixed = mix_logits([INSTRUCTED, BASE], [1.0, 2.0])
    step = steered_step(BASE, mixed, strength=1.0, temperature=0.6, budget=0.1)
    assert mixed.dtype == torch.float64
    told = (
        step.logprobs,
        step.steered_logprobs,
        step.instructed_logprobs,
        step.divergence,
        step.temperature,
        step.spent,
    )
    assert {values.dtype for values in told} == {torch.float32}


def test_what_is_masked_in_any_context_is_masked_in_the_mixture_and_nan_stays():
    masked, broken = INSTRUCTED.clone(), BASE.clone()
    masked[0, 1], broken[0, 3] = -INF, math.nan
    for weights in ([1.0, 1.0], [1e-200, 1e200]):  # the share of the first is 0 in float64
        mixed = mix_logits([masked, broken], weights)
        assert mixed[0, 1] == -INF
        assert mixed[0, 3].isnan()
        assert mixed[0, [0, 2]].isfinite().all()


@given(logits, logits, logits, st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=3), st.floats(1e-3, 1e3))
def test_a_mixture_depends_on_the_ratios_of_weights_and_on_no_order(first, second, third, weights, scale):
    contexts = [rows(values) for values in (first, second, third)]
    mixed = mix_logits(contexts, weights)
    torch.testing.assert_close(mix_logits(contexts, [scale * weight for weight in weights]), mixed)
    torch.testing.assert_close(mix_logits(contexts[::-1], weights[::-1]), mixed)


@given(logits, logits, st.floats(0.01, 0.99))
def test_a_mixture_lies_between_its_contexts_up_to_what_normalises_it(first, second, share):
    one, other = rows(first).log_softmax(-1), rows(second).log_softmax(-1)
    mixed = mix_logits([one, other], [share, 1 - share])
    low, high = torch.minimum(one, other).double(), torch.maximum(one, other).double()
    assert bool(((mixed >= low - 1e-9) & (mixed <= high + 1e-9)).all())
    assert bool((mixed.logsumexp(-1) <= 1e-5).all())  # by Hölder's inequality: the more they disagree, the less


@given(logits, logits, logits, st.floats(0, 8), st.floats(0.1, 10))
def test_steering_by_a_mixture_is_the_weighted_sum_of_steering_by_each(base, first, second, strength, ratio):
    base, first, second = (rows(values).double().log_softmax(-1) for values in (base, first, second))
    apart = (ratio * steer(base, first, strength) + steer(base, second, strength)) / (ratio + 1)
    together = steer(base, mix_logits([first, second], [ratio, 1.0]), strength)
    torch.testing.assert_close(together, apart)


def test_divergence_of_disjoint_distributions_is_the_logarithm_of_two():
    one, other = torch.tensor([[1.0, 0.0]]).log(), torch.tensor([[0.0, 1.0]]).log()
    assert js_divergence(one, other).item() == pytest.approx(LOG_2)


def test_divergence_of_the_four_token_case_is_what_a_hand_computes():
    m = [0.25, 0.3, 0.3, 0.15]
    p, q = [0.4, 0.3, 0.2, 0.1], [0.1, 0.3, 0.4, 0.2]
    expected = 0.5 * sum(a * math.log(a / c) + b * math.log(b / c) for a, b, c in zip(p, q, m, strict=True))
    assert js_divergence(BASE, INSTRUCTED).item() == pytest.approx(expected, abs=1e-7)


def test_divergence_is_never_negative_when_rounding_would_make_it_so():
    torch.manual_seed(0)
    same = torch.log_softmax(torch.randn(200, 1000) * 10, dim=-1)
    nearly = torch.log_softmax(same + torch.randn(200, 1000) * 1e-7, dim=-1)
    divergence = js_divergence(same, nearly)
    assert (divergence >= 0).all()
    assert not torch.signbit(divergence).any()
    assert (divergence < 1e-5).all()


@pytest.mark.parametrize(("divergence", "expected"), [(0.0, 0.6), (LOG_2, 0.6 / math.sqrt(2)), (2 * LOG_2, 0.3)])
def test_temperature_halves_for_every_sigma_of_divergence(divergence, expected):
    temperature = divergence_temperature(
        torch.tensor([divergence]), temperature=0.6, sensitivity=2 * LOG_2, min_temperature=0.0
    )
    assert temperature.item() == pytest.approx(expected)


def test_temperature_stops_at_its_minimum_but_greedy_stays_greedy():
    temperature = divergence_temperature(
        torch.tensor([0.5, 0.5]), temperature=torch.tensor([0.6, 0.0]), sensitivity=0.01, min_temperature=0.2
    )
    assert temperature.tolist() == [pytest.approx(0.2), 0.0]


def test_every_parameter_can_differ_per_row():
    base, instructed = BASE.repeat(2, 1), INSTRUCTED.repeat(2, 1)
    strengths, temperatures = torch.tensor([0.5, 3.0]), torch.tensor([0.9, 0.0])
    together = steered_step(
        base,
        instructed,
        strength=strengths,
        temperature=temperatures,
        sensitivity=torch.tensor([0.1, 1.0]),
        min_temperature=torch.tensor([0.1, 0.0]),
        plausibility=torch.tensor([0.0, 0.5]),
    )
    for row, (sensitivity, minimum, plausibility) in enumerate([(0.1, 0.1, 0.0), (1.0, 0.0, 0.5)]):
        alone = steered_step(
            BASE,
            INSTRUCTED,
            strength=float(strengths[row]),
            temperature=float(temperatures[row]),
            sensitivity=sensitivity,
            min_temperature=minimum,
            plausibility=plausibility,
        )
        torch.testing.assert_close(together.logprobs[row], alone.logprobs[0])
        torch.testing.assert_close(together.temperature[row], alone.temperature[0])


@given(logits, logits)
def test_strength_zero_is_the_instructed_distribution_to_the_bit(base, instructed):
    base, instructed = rows(base).log_softmax(-1), rows(instructed).log_softmax(-1)
    assert torch.equal(steer(base, instructed, 0.0), instructed)
    assert torch.equal(steer(base, instructed, torch.zeros(3)), instructed)


@given(logits, logits, st.floats(0, 4), st.floats(0, 1.5))
def test_the_steered_distribution_sums_to_one(base, instructed, strength, temperature):
    step = steered_step(rows(base), rows(instructed), strength=strength, temperature=temperature)
    torch.testing.assert_close(step.logprobs.exp().sum(-1), torch.ones(3))
    torch.testing.assert_close(step.steered_logprobs.exp().sum(-1), torch.ones(3))


@given(logits, logits)
def test_divergence_is_symmetric_and_between_zero_and_ln_2(base, instructed):
    base, instructed = rows(base).log_softmax(-1), rows(instructed).log_softmax(-1)
    divergence = js_divergence(base, instructed)
    assert ((divergence >= 0) & (divergence <= LOG_2)).all()
    torch.testing.assert_close(divergence, js_divergence(instructed, base))


@given(logits, logits, st.floats(0, 4))
def test_greedy_takes_the_argmax_of_steer(base, instructed, strength):
    base, instructed = rows(base), rows(instructed)
    step = steered_step(base, instructed, strength=strength, temperature=0.0)
    steered = steer(base.log_softmax(-1), instructed.log_softmax(-1), strength)
    chosen = steered.gather(-1, step.logprobs.argmax(-1, keepdim=True))
    torch.testing.assert_close(chosen, steered.amax(-1, keepdim=True), atol=1e-5, rtol=0)
    assert (step.logprobs.max(-1).values == 0).all()


@settings(max_examples=25)
@given(logits, logits, st.integers(0, 6))
def test_a_token_masked_in_both_contexts_stays_masked_and_changes_nothing_else(base, instructed, token):
    base, instructed = rows(base).clone(), rows(instructed).clone()
    base[:, token] = instructed[:, token] = -INF
    kept = [other for other in range(7) if other != token]
    step = steered_step(base, instructed, strength=2.0, temperature=0.7)
    smaller = steered_step(base[:, kept], instructed[:, kept], strength=2.0, temperature=0.7)
    assert (step.logprobs[:, token] == -INF).all()
    torch.testing.assert_close(step.logprobs[:, kept], smaller.logprobs)
    torch.testing.assert_close(step.divergence, smaller.divergence)


def test_a_token_masked_in_one_context_alone_gives_no_nan_and_no_infinite_bonus():
    base = torch.tensor([[-INF, 0.0, 0.0, 0.0]]).log_softmax(-1)
    steered = steer(base, INSTRUCTED, 2.0)
    assert steered.isfinite().all()
    assert steered[0, 0] == INSTRUCTED[0, 0]
    assert steer(INSTRUCTED, base, 2.0)[0, 0] == -INF


def test_nan_stays_in_its_own_row():
    broken = BASE.repeat(3, 1).clone()
    broken[1, 2] = math.nan
    step = steered_step(broken, INSTRUCTED.repeat(3, 1), strength=1.0, temperature=torch.tensor([0.6, 0.0, 0.0]))
    assert step.logprobs[1].isnan().any()
    assert not step.logprobs[[0, 2]].isnan().any()


def test_a_row_with_every_token_masked_is_nan_rather_than_token_zero():
    masked = torch.full((1, 4), -INF)
    assert steered_step(masked, masked, strength=1.0, temperature=0.0).logprobs.isnan().any()


def test_half_precision_logits_are_steered_in_float32():
    step = steered_step(BASE.bfloat16(), INSTRUCTED.half(), strength=1.0, temperature=0.6)
    assert step.logprobs.dtype == step.divergence.dtype == torch.float32
    assert steer(BASE.bfloat16(), INSTRUCTED.bfloat16(), 1.0).dtype == torch.float32


def test_plausibility_drops_tokens_that_the_instructed_context_finds_unlikely():
    kept = apply_plausibility(torch.zeros(1, 4), INSTRUCTED, 0.5).isfinite()
    assert kept.tolist() == [[False, True, True, True]]  # 0.1 < 0.5 * 0.4, and 0.2 is just enough


def test_plausibility_keeps_a_huge_bonus_from_winning():
    base = torch.tensor([[0.0, -2.0, -2.0, -60.0]])
    instructed = torch.tensor([[0.0, 1.0, -2.0, -9.0]])
    assert steered_step(base, instructed, strength=2.0, temperature=0.0).logprobs.argmax() == 3
    held = steered_step(base, instructed, strength=2.0, temperature=0.0, plausibility=0.1)
    assert held.logprobs.argmax() == 1


def test_temperature_divides_log_probabilities():
    torch.testing.assert_close(
        apply_temperature(BASE, torch.tensor([0.5])).exp(), torch.tensor([[16.0, 9.0, 4.0, 1.0]]) / 30
    )


def test_without_an_instruction_the_divergence_is_taken_to_the_avoided_context():
    step = steered_step(BASE, None, strength=2.0, temperature=0.6, avoided_logits=INSTRUCTED, avoid_strength=1.0)
    torch.testing.assert_close(step.divergence, js_divergence(BASE, INSTRUCTED))
    torch.testing.assert_close(step.instructed_logprobs, step.base_logprobs)
    expected = steer(BASE, BASE, 2.0, avoided_logprobs=INSTRUCTED, avoid_strength=1.0).log_softmax(-1)
    torch.testing.assert_close(step.steered_logprobs, expected)


def test_a_plain_row_has_no_divergence_and_its_own_temperature():
    step = steered_step(BASE, None, strength=0.0, temperature=0.6)
    assert step.divergence.tolist() == [0.0]
    assert step.temperature.tolist() == [pytest.approx(0.6)]
    torch.testing.assert_close(step.steered_logprobs, BASE)


def test_the_schedules_differ_where_they_should():
    signals = TemperatureSignals(
        divergence=torch.tensor([LOG_2, LOG_2]),
        critical=torch.tensor([True, False]),
        temperature=torch.tensor([0.8, 0.8]),
        sensitivity=torch.tensor([LOG_2, LOG_2]),
        min_temperature=torch.tensor([0.0, 0.0]),
    )
    assert divergence_schedule(signals).tolist() == pytest.approx([0.4, 0.4])
    assert constant_schedule(signals).tolist() == pytest.approx([0.8, 0.8])
    assert critical_tokens_schedule(signals).tolist() == pytest.approx([0.4, 0.8])


def critical_step(*, strength=1.0, critical_divergence=0.0, critical_tokens=None):
    """INSTRUCTED against BASE, which changes the most likely token from the first to the third one."""
    return steered_step(
        BASE,
        INSTRUCTED,
        strength=strength,
        temperature=0.8,
        sensitivity=0.5,
        schedule=critical_tokens_schedule,
        critical_divergence=critical_divergence,
        critical_tokens=critical_tokens,
    ).temperature.item()


def test_a_changed_token_is_critical_from_the_threshold_of_the_divergence_on():
    divergence = steered_step(BASE, INSTRUCTED, strength=1.0, temperature=0.8).divergence.item()
    cooled = 0.8 * 0.5 ** (divergence / 0.5)
    assert critical_step() == pytest.approx(cooled)
    assert critical_step(critical_divergence=divergence) == pytest.approx(cooled)
    assert critical_step(critical_divergence=divergence + 1e-4) == pytest.approx(0.8)


def test_a_diverging_token_is_not_critical_while_the_most_likely_one_stays_the_same():
    instructed = torch.tensor([[0.98, 0.01, 0.005, 0.005]]).log()
    step = steered_step(
        BASE, instructed, strength=1.0, temperature=0.8, sensitivity=0.5, schedule=critical_tokens_schedule
    )
    assert step.divergence.item() > 0.1
    assert step.temperature.item() == pytest.approx(0.8)


def test_a_token_of_a_named_category_is_critical_whatever_the_divergence():
    cooled = critical_step()
    third, first = torch.tensor([False, False, True, False]), torch.tensor([True, False, False, False])
    assert critical_step(critical_divergence=LOG_2, critical_tokens=third) == pytest.approx(cooled)
    assert critical_step(critical_divergence=LOG_2, critical_tokens=first) == pytest.approx(0.8)


def test_the_category_is_that_of_the_token_that_steering_makes_the_most_likely():
    # the second token's ratio is 4, the third one's 2: at strength 0 the third leads, at strength 2 the second
    base, instructed = torch.tensor([[0.5, 0.1, 0.2, 0.2]]).log(), torch.tensor([[0.05, 0.35, 0.4, 0.2]]).log()
    second = torch.tensor([False, True, False, False])
    for strength, expected in [(0.0, 0.8), (2.0, 0.8 * 0.5 ** (js_divergence(base, instructed).item() / 0.5))]:
        step = steered_step(
            base,
            instructed,
            strength=strength,
            temperature=0.8,
            sensitivity=0.5,
            schedule=critical_tokens_schedule,
            critical_divergence=LOG_2,
            critical_tokens=second,
        )
        assert step.temperature.item() == pytest.approx(expected)


def test_critical_tokens_can_differ_per_row():
    step = steered_step(
        BASE.repeat(2, 1),
        INSTRUCTED.repeat(2, 1),
        strength=1.0,
        temperature=0.8,
        sensitivity=0.5,
        schedule=critical_tokens_schedule,
        critical_divergence=torch.tensor([0.0, LOG_2]),
    )
    assert step.temperature.tolist() == [pytest.approx(critical_step()), pytest.approx(0.8)]


@given(logits, logits)
def test_without_threshold_and_categories_critical_tokens_are_the_changed_ones(base, instructed):
    base, instructed = rows(base), rows(instructed)
    used = [
        steered_step(base, instructed, strength=1.0, temperature=0.8, schedule=schedule).temperature
        for schedule in (critical_tokens_schedule, divergence_schedule)
    ]
    changed = base.log_softmax(-1).argmax(-1) != instructed.log_softmax(-1).argmax(-1)
    assert torch.equal(used[0], torch.where(changed, used[1], torch.tensor(0.8)))


def test_a_callable_schedule_sees_threshold_and_category():
    seen = []

    def schedule(signals):
        seen.append((signals.critical_divergence.tolist(), signals.in_category.tolist()))
        return signals.temperature

    third = torch.tensor([False, False, True, False])
    for tokens in (third, ~third, None):
        steered_step(
            BASE,
            INSTRUCTED,
            strength=1.0,
            temperature=0.6,
            schedule=schedule,
            critical_divergence=0.25,
            critical_tokens=tokens,
        )
    assert seen == [([0.25], [True]), ([0.25], [False]), ([0.25], [False])]


def test_entropy_is_the_logarithm_of_as_many_equally_likely_tokens():
    distributions = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]).log()
    assert entropy(distributions).tolist() == pytest.approx([2 * LOG_2, LOG_2, 0.0])
    assert not torch.signbit(entropy(distributions)).any()


def test_a_callable_schedule_sees_whether_the_most_likely_token_changes():
    seen = []

    def schedule(signals):
        seen.append(signals.critical.tolist())
        return signals.temperature

    steered_step(BASE, INSTRUCTED, strength=1.0, temperature=0.6, schedule=schedule)
    steered_step(BASE, BASE.clone(), strength=1.0, temperature=0.6, schedule=schedule)
    assert seen == [[True], [False]]


@pytest.mark.parametrize("vocab", [30, 50_000])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("budget", [None, 0.5])
def test_a_row_is_steered_to_the_bit_as_it_is_alone(vocab, threads, budget):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        generator = torch.Generator().manual_seed(0)
        base = 4 * torch.randn((5, vocab), generator=generator)
        instructed = base + torch.randn((5, vocab), generator=generator)
        settings = {"strength": 1.5, "temperature": 0.6, "budget": budget, "masked": False}
        together = steered_step(base, instructed, **settings)
        for row in range(5):
            alone = steered_step(base[row : row + 1], instructed[row : row + 1], **settings)
            for field in ("divergence", "temperature", "steered", "log_total", "drawn_entropy"):
                assert torch.equal(getattr(together, field)[row], getattr(alone, field)[0]), field
    finally:
        torch.set_num_threads(before)
