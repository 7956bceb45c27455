"""What intervals and tests promise, over a hundred seeded studies: the truth within, few false alarms, no miss."""

import numpy as np

from sda_engine.evaluation.statistics import holm, mean, paired_difference


def names(count):
    return [str(place) for place in range(count)]


def held(draw, runs, known):
    """In how many runs the interval holds the known mean; `draw` gives values and groups."""
    intervals = [mean(*draw(np.random.default_rng(run)), resamples=100) for run in range(runs)]
    return sum(interval.low <= known <= interval.high for interval in intervals)


def test_the_interval_holds_a_known_mean_19_times_in_20():
    """Of 100 it should hold 95 (deviation 2.2); a percentile interval of 80 samples, 100 draws, is a trifle narrow."""
    assert 87 <= held(lambda generator: (generator.exponential(5, 80), names(80)), 100, 5) <= 99


def clustered(generator):
    prompts = generator.normal(0, 1, 40)
    return np.repeat(prompts, 4) + generator.normal(0, 0.3, 160)


def test_the_interval_holds_a_known_mean_19_times_in_20_where_the_answers_to_a_prompt_are_alike():
    together, apart = (
        held(lambda generator, groups=groups: (clustered(generator), groups), 100, 0)
        for groups in (list(np.repeat(names(40), 4)), names(160))
    )
    assert 87 <= together <= 99
    assert apart < 80  # as if they were independent: too narrow by half


def noisy_runs(seed, *, prompts, runs, gains=()):
    """Scores of independent runs of one arm on the same prompts, (runs, prompts), some raised by their gains."""
    generator = np.random.default_rng(seed)
    difficulty = generator.normal(50, 20, prompts)
    scores = difficulty + generator.normal(0, 30, (runs, prompts))
    for run, gain in enumerate(gains):
        scores[run] += gain
    return scores


def corrected(scores, *, flips=199):
    """Holm's p of each run but the last against the last."""
    *arms, baseline = scores
    groups = names(len(baseline))
    return holm([paired_difference(arm, baseline, groups, resamples=1, flips=flips).p for arm in arms])


def test_an_arm_against_itself_is_no_difference():
    """One study has an arm run four times. A false alarm is a p below 5% after Holm's correction.

    Their number in 100 studies is binomial with a chance of 5% at most each: more than 10 have a probability of 1%,
    while "at most 5" would fail in four of ten choices of seeds though nothing is wrong.
    """
    studies = [noisy_runs(seed, prompts=40, runs=4) for seed in range(100)]
    assert sum(min(corrected(study)) < 0.05 for study in studies) <= 10


def test_one_arm_against_itself_alarms_in_one_of_twenty_and_not_in_none():
    found = [corrected(noisy_runs(1000 + seed, prompts=40, runs=2))[0] for seed in range(100)]
    assert 1 <= sum(p < 0.05 for p in found) <= 10
    assert 35 <= sum(p < 0.5 for p in found) <= 65  # p is spread evenly where nothing differs


def test_wins_and_losses_of_an_arm_against_itself_are_no_difference():
    drawn = (np.random.default_rng(seed).choice([-1, 0, 1], p=[0.35, 0.3, 0.35], size=80) for seed in range(100))
    found = [paired_difference(one, np.zeros(80), names(80), resamples=1, flips=99).p for one in drawn]
    assert sum(p < 0.05 for p in found) <= 10


def test_a_planted_difference_is_found_among_arms_without_one():
    """15 points over 200 prompts, where two runs on one prompt differ by 42 points or so."""
    studies = [corrected(noisy_runs(seed, prompts=200, runs=3, gains=(15,)), flips=119) for seed in range(100)]
    assert sum(planted < 0.05 for planted, _ in studies) >= 95


def test_a_planted_win_rate_of_three_tenths_is_found():
    drawn = (np.random.default_rng(seed).choice([-1, 0, 1], p=[0.2, 0.3, 0.5], size=200) for seed in range(100))
    found = [paired_difference(one, np.zeros(200), names(200), resamples=1, flips=79).p for one in drawn]
    assert sum(p < 0.05 for p in found) >= 95
