"""Bounds, worked out by hand."""

from dataclasses import replace

import pytest

from sda_integrations.vllm.plan.gpus import Gpu
from sda_integrations.vllm.plan.models import PRESETS, Experts, ModelSizes
from sda_integrations.vllm.plan.speed import Deployment, least_step

GPU = Gpu("g", memory=10**9, bandwidth=1e6, flops=1e9, rows=64)
# 1000 parameters, of which 100 are input and 100 output embeddings; one layer, whose token takes 2 x 5 x 2 = 20 bytes
SIZES = ModelSizes("m", 1000, 100, False, 2, 1, 5, windows=((None, 1),), context=10_000)
DEPLOYMENT = Deployment(SIZES, GPU, gpus=1, plain_bytes=2, weight_bytes=2, cache_bytes=2)


def test_a_short_row_waits_for_the_weights():
    step = least_step(DEPLOYMENT, [10])
    assert (step.seconds, step.limit) == (pytest.approx((900 * 2 + 10 * 20) / 1e6), "weights")


def test_long_rows_wait_for_their_keys_and_values():
    step = least_step(DEPLOYMENT, [100, 100])
    assert (step.seconds, step.limit) == (pytest.approx((900 * 2 + 200 * 20) / 1e6), "keys and values")


def test_many_rows_wait_for_the_products():
    """2 x 900 operations a row, and 4 x 2 heads x 5 numbers for each token that it reads."""
    slow = replace(DEPLOYMENT, gpu=replace(GPU, flops=1e6))
    step = least_step(slow, [10] * 8)
    assert (step.seconds, step.limit) == (pytest.approx(8 * (1800 + 40 * 10) / 1e6), "compute")


def test_two_gpus_read_half_each():
    step = least_step(replace(DEPLOYMENT, gpus=2), [10])
    assert step.seconds == pytest.approx((900 * 2 / 2 + 10 * 20) / 1e6), "one head of keys cannot be shared"


def test_quantized_weights_are_read_faster_and_embeddings_are_not():
    step = least_step(replace(DEPLOYMENT, weight_bytes=0.5), [0])
    assert step.seconds == pytest.approx((800 * 0.5 + 100 * 2) / 1e6)


def test_a_window_bounds_what_is_read():
    windowed = replace(SIZES, windows=((32, 3), (None, 1)))
    step = least_step(replace(DEPLOYMENT, sizes=windowed), [100])
    assert step.seconds == pytest.approx((900 * 2 + (3 * 32 + 100) * 20) / 1e6)


def test_experts_are_read_where_a_row_chooses_them():
    """600 of the parameters in 4 experts, of which a token has 1: one row reads a quarter, two 7 sixteenths."""
    mixed = replace(DEPLOYMENT, sizes=replace(SIZES, experts=Experts(600, count=4, per_token=1)))
    assert least_step(mixed, [0]).seconds == pytest.approx((300 + 600 / 4) * 2 / 1e6)
    assert least_step(mixed, [0, 0]).seconds == pytest.approx((300 + 600 * 7 / 16) * 2 / 1e6)


def test_without_operations_per_second_memory_alone_counts():
    unknown = replace(DEPLOYMENT, gpu=replace(GPU, flops=None))
    assert least_step(unknown, [10] * 1000).limit == "keys and values"


def test_the_second_row_is_nearly_free_where_weights_decide():
    deployment = Deployment(PRESETS["llama-3.1-8b"], replace(GPU, bandwidth=3.35e12, flops=989e12), 1, 2, 2, 2)
    one, two = least_step(deployment, [1000]), least_step(deployment, [1000, 1040])
    assert one.limit == "weights"
    assert two.seconds < 1.01 * one.seconds
