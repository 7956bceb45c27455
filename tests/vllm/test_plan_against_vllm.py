"""The plan's arithmetic against vLLM's own classes: what a block takes, how many there are, how many requests fit."""

from types import SimpleNamespace

import pytest
import torch
from vllm import SamplingParams
from vllm.config.cache import CacheConfig
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.core.kv_cache_utils import (
    get_kv_cache_config_from_groups,
    get_kv_cache_groups,
    get_max_concurrency_for_kv_cache_config,
    get_request_block_hasher,
    init_none_hash,
)
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheLayout, MLAAttentionSpec, SlidingWindowSpec
from vllm.v1.request import Request

from sda_integrations.vllm.plan.cache import blocks_held, cache_shape
from sda_integrations.vllm.plan.models import PRESETS, ModelSizes
from sda_integrations.vllm.plan.options import PlanOptions
from sda_integrations.vllm.plan.planning import make_plan
from sda_integrations.vllm.plan.requests import RequestShape, prompt_tokens_computed, request_blocks

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


class Manager:
    """vLLM's own manager of blocks, which rows are given to as a scheduler gives them."""

    def __init__(self, sizes):
        settings = vllm_settings(4096)
        groups = get_kv_cache_groups(settings, specs(sizes, block_size=16, gpus=1, dtype=torch.bfloat16))
        config = get_kv_cache_config_from_groups(settings, groups, MEMORY)
        self._manager = KVCacheManager(
            config, 4096, scheduler_block_size=16, hash_block_size=16, max_in_flight_tokens=1
        )
        self._hasher = get_request_block_hasher(16, sha256)
        self._all = config.num_blocks - 1  # one stands for none

    def add(self, name, prompt):
        """Read a prompt; the request, and how many of its tokens were known."""
        request = Request(name, prompt, SamplingParams(max_tokens=1000), None, block_hasher=self._hasher)
        known_blocks, known, _ = self._manager.get_computed_blocks(request)
        taken = self._manager.allocate_slots(request, len(prompt) - known, known, known_blocks)
        assert taken is not None
        request.num_computed_tokens = len(prompt)
        return request, known

    def decode(self, request, token):
        """One token more."""
        request.append_output_token_ids(token)
        assert self._manager.allocate_slots(request, 1) is not None
        request.num_computed_tokens += 1

    def held(self):
        """Blocks that are in use."""
        return self._all - self._manager.block_pool.get_num_free_blocks()


@pytest.fixture(autouse=True, scope="module")
def hashes_can_be_made():
    init_none_hash(sha256)


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize(
    ("prompt", "instruction", "answer"), [(1000, 40, 300), (95, 7, 1), (64, 16, 16), (21, 300, 90)]
)
@pytest.mark.parametrize("name", ["llama-3.1-8b", "gemma-2-9b"])
def test_a_group_takes_the_blocks_that_vllms_manager_gives_it(name, prompt, instruction, answer, rows):
    manager = Manager(PRESETS[name])
    common = list(range(prompt - 5))
    end = [7, 8, 9, 10, 11]
    prompts = [common + end, *(common + [1000 + row] * instruction + end for row in range(1, rows))]
    group = [manager.add(str(row), tokens) for row, tokens in enumerate(prompts)]
    for token in range(answer):
        for request, _ in group:
            manager.decode(request, token)
    request = RequestShape(prompt, instruction, answer, rows, common=prompt - 5)
    shape = cache_shape(PRESETS[name], 2, 1, 16)
    assert manager.held() == request_blocks(shape, request).total
    assert sum(len(tokens) - known for tokens, (_, known) in zip(prompts, group, strict=True)) == (
        prompt_tokens_computed(16, request)
    )


@pytest.mark.parametrize("answer", [10, 200, 1500])
def test_rows_whose_layers_have_a_window_take_what_vllms_manager_gives_them(answer):
    sizes = GPT_OSS
    manager = Manager(sizes)
    common = list(range(600))
    group = [manager.add(str(row), common + [1000 + row] * (40 * row + 5)) for row in range(2)]
    for token in range(answer):
        for request, _ in group:
            manager.decode(request, token)
    blocks = request_blocks(cache_shape(sizes, 2, 1, 16), RequestShape(605, 40, answer, 2, common=600))
    assert manager.held() == blocks.total
