"""The plan's arithmetic against vLLM's own classes: what a block takes, how many there are, how many requests fit."""

from types import SimpleNamespace

import pytest
import torch
from vllm.config.cache import CacheConfig
from vllm.v1.core.kv_cache_utils import (
    get_kv_cache_config_from_groups,
    get_kv_cache_groups,
    get_max_concurrency_for_kv_cache_config,
)
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheLayout, MLAAttentionSpec, SlidingWindowSpec

from sda_integrations.vllm.plan.cache import blocks_held, cache_shape
from sda_integrations.vllm.plan.models import PRESETS, ModelSizes
from sda_integrations.vllm.plan.options import PlanOptions
from sda_integrations.vllm.plan.planning import make_plan

MEMORY = 20 * 2**30
LATENT = ModelSizes("latent", 10**9, 10**8, False, 128, 1, 576, windows=((None, 61),), context=4096, latent=True)
GPT_OSS = ModelSizes("13 of 25", 10**9, 10**8, False, 64, 8, 64, windows=((128, 12), (None, 13)), context=10**5)
GEMMA = ModelSizes("5 to 1", 10**9, 10**8, False, 8, 4, 256, windows=((1024, 29), (None, 5)), context=10**5)
MODELS = [*PRESETS.values(), LATENT, GPT_OSS, GEMMA]


def specs(sizes, *, block_size, gpus, dtype):
    """vLLM's description of each layer."""
    made = {}
    for window, count in sizes.windows:
        shared = {"block_size": block_size, "head_size": sizes.head_dim, "dtype": dtype}
        for _ in range(count):
            name = f"layer {len(made)}"
            if sizes.latent:
                made[name] = MLAAttentionSpec(num_kv_heads=1, **shared)
            elif window is None:
                made[name] = FullAttentionSpec(num_kv_heads=max(1, sizes.kv_heads // gpus), **shared)
            else:
                heads = max(1, sizes.kv_heads // gpus)
                made[name] = SlidingWindowSpec(num_kv_heads=heads, sliding_window=window, dcp_sharded=False, **shared)
    return made


def vllm_settings(length, layout="LBHNC"):
    """Of vLLM's configuration, what its arithmetic of the cache reads."""
    cache = SimpleNamespace(
        get_resolved_kv_cache_layout=lambda: KVCacheLayout[layout],
        num_gpu_blocks_override=None,
        prefix_cache_retention_interval=None,
    )
    return SimpleNamespace(
        cache_config=cache,
        model_config=SimpleNamespace(max_model_len=length),
        scheduler_config=SimpleNamespace(disable_hybrid_kv_cache_manager=False),
        parallel_config=SimpleNamespace(decode_context_parallel_size=1),
        attention_config=SimpleNamespace(hisparse_config=None),
        speculative_config=None,
        max_in_flight_tokens=1,
    )


@pytest.mark.parametrize("gpus", [1, 2, 8])
@pytest.mark.parametrize(("block_size", "dtype", "value_bytes"), [(16, torch.bfloat16, 2), (128, torch.float32, 4)])
@pytest.mark.parametrize("sizes", MODELS, ids=lambda sizes: sizes.name)
def test_a_block_takes_what_vllm_says_and_as_many_fit(sizes, block_size, dtype, value_bytes, gpus):
    settings = vllm_settings(4000)
    groups = get_kv_cache_groups(settings, specs(sizes, block_size=block_size, gpus=gpus, dtype=dtype))
    theirs = get_kv_cache_config_from_groups(settings, groups, MEMORY)
    shape = cache_shape(sizes, value_bytes, gpus, block_size)
    assert MEMORY // shape.block_bytes == theirs.num_blocks
    assert sum(group.tables for group in shape.groups) == len(theirs.kv_cache_groups)


@pytest.mark.parametrize("length", [1, 100, 1601, 4000, 4096])
@pytest.mark.parametrize("sizes", MODELS, ids=lambda sizes: sizes.name)
def test_as_many_requests_fit_as_vllm_says(sizes, length):
    settings = vllm_settings(length)
    groups = get_kv_cache_groups(settings, specs(sizes, block_size=16, gpus=1, dtype=torch.bfloat16))
    theirs = get_kv_cache_config_from_groups(settings, groups, MEMORY)
    told = get_max_concurrency_for_kv_cache_config(settings, theirs)
    shape = cache_shape(sizes, 2, 1, 16)
    held = blocks_held(shape, length)
    if all(window is None for window, _ in sizes.windows):
        assert theirs.num_blocks / held == told
    else:  # vLLM's is the worst place that a window can have in its blocks, and counts one more in a short sequence
        tables = sum(group.tables for group in shape.groups if group.window is not None)
        assert held <= theirs.num_blocks / told <= held + 2 * tables


def test_a_plan_has_the_memory_that_vllm_uses_by_default():
    assert PlanOptions().gpu_memory_utilization == CacheConfig().gpu_memory_utilization


def test_a_plan_has_vllms_own_size_of_a_block():
    assert PlanOptions().block_size == CacheConfig.DEFAULT_BLOCK_SIZE


def test_plain_requests_at_once_are_vllms_own_number():
    """Llama 3.1 8B with float16 on an L40S, one block held back as vLLM does in its check of the memory."""
    sizes = PRESETS["llama-3.1-8b"]
    plan = make_plan(sizes, PlanOptions(gpu="l40s", prompt_tokens=3000, answer_tokens=1000))
    settings = vllm_settings(4000)
    groups = get_kv_cache_groups(settings, specs(sizes, block_size=16, gpus=1, dtype=torch.float16))
    theirs = get_kv_cache_config_from_groups(settings, groups, int(plan.cache_memory) - plan.cache.block_bytes)
    assert plan.plain.at_once == int(get_max_concurrency_for_kv_cache_config(settings, theirs))
    assert plan.blocks == theirs.num_blocks
