"""The mathematics of SDA: amplification, steering, divergence, temperature, sampling. Pure, batch first, torch only."""

from sda_engine.steering.amplification import (
    AMPLIFICATION_CURVES,
    AmplificationCurve,
    amplification_factor,
    check_score,
    cosine_amplification,
    damped_exponential_amplification,
    exponential_amplification,
    linear_amplification,
    reciprocal_amplification,
    sigmoid_amplification,
    steep_linear_amplification,
)
from sda_engine.steering.budget import Budget, Purse
from sda_engine.steering.mathematics import (
    LOG_2,
    apply_plausibility,
    entropy,
    js_divergence,
    steer,
    steering_vector,
)
from sda_engine.steering.path import divergence_from_base, furthest_position, path_logprobs
from sda_engine.steering.sampling import candidate_counts, draw, make_generator, sample, top_tokens
from sda_engine.steering.step import Context, SteeredStep, steered_step
from sda_engine.steering.temperature import (
    TEMPERATURE_SCHEDULES,
    TemperatureSchedule,
    TemperatureSignals,
    apply_temperature,
    constant_schedule,
    critical_tokens_schedule,
    divergence_schedule,
    divergence_temperature,
)

__all__ = [
    "AMPLIFICATION_CURVES",
    "LOG_2",
    "TEMPERATURE_SCHEDULES",
    "AmplificationCurve",
    "Budget",
    "Context",
    "Purse",
    "SteeredStep",
    "TemperatureSchedule",
    "TemperatureSignals",
    "amplification_factor",
    "apply_plausibility",
    "apply_temperature",
    "candidate_counts",
    "check_score",
    "constant_schedule",
    "cosine_amplification",
    "critical_tokens_schedule",
    "damped_exponential_amplification",
    "divergence_from_base",
    "divergence_schedule",
    "divergence_temperature",
    "draw",
    "entropy",
    "exponential_amplification",
    "furthest_position",
    "js_divergence",
    "linear_amplification",
    "make_generator",
    "path_logprobs",
    "reciprocal_amplification",
    "sample",
    "sigmoid_amplification",
    "steep_linear_amplification",
    "steer",
    "steered_step",
    "steering_vector",
    "top_tokens",
]
