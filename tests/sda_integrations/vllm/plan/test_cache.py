"""Blocks, worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sda_integrations.vllm.plan.cache import blocks_held, blocks_shared, cache_shape, kv_heads_per_gpu
from sda_integrations.vllm.plan.models import PRESETS, ModelSizes
from sda_integrations.vllm.plan.requests import RequestShape, prompt_tokens_computed, request_blocks

WINDOWED = ModelSizes("w", 1, 1, False, 4, 2, 8, windows=((32, 4), (None, 2)), context=10_000)


def test_a_token_of_llama_8b_takes_128_kib():
    shape = cache_shape(PRESETS["llama-3.1-8b"], value_bytes=2, gpus=1, block_size=16)
    assert shape.token_bytes == 2 * 32 * 8 * 128 * 2 == 128 * 1024  # key and value, layers, heads, numbers, bytes
    assert shape.block_bytes == 16 * shape.token_bytes


@pytest.mark.parametrize(("gpus", "heads"), [(1, 8), (2, 4), (8, 1), (16, 1)])
def test_gpus_share_the_heads_and_copy_the_last_one(gpus, heads):
    assert kv_heads_per_gpu(PRESETS["llama-3.3-70b"], gpus) == heads


def test_a_latent_vector_is_copied_to_every_gpu():
    latent = ModelSizes("l", 1, 1, False, 128, 1, 576, windows=((None, 61),), context=4096, latent=True)
    assert cache_shape(latent, 2, 8, 16).token_bytes == cache_shape(latent, 2, 1, 16).token_bytes == 61 * 576 * 2


def test_rows_share_the_full_blocks_of_what_they_begin_with():
    """Prompt 100, 95 of it in common: 5 full blocks; 120 tokens are 8 blocks, 160 are 10."""
    shape = cache_shape(PRESETS["llama-3.1-8b"], 2, 1, 16)
    blocks = request_blocks(shape, RequestShape(prompt=100, instruction=40, answer=20, rows=2, common=95))
    assert (blocks.shared, blocks.tails, blocks.total) == (5, (3, 5), 13)


def test_three_rows_share_them_as_well():
    shape = cache_shape(PRESETS["llama-3.1-8b"], 2, 1, 16)
    blocks = request_blocks(shape, RequestShape(prompt=100, instruction=40, answer=20, rows=3, common=95))
    assert (blocks.shared, blocks.tails, blocks.total) == (5, (3, 5, 5), 18)


def test_a_plain_request_shares_nothing():
    shape = cache_shape(PRESETS["llama-3.1-8b"], 2, 1, 16)
    blocks = request_blocks(shape, RequestShape(prompt=100, instruction=40, answer=20, rows=1, common=95))
    assert (blocks.shared, blocks.tails) == (0, (8,))


def test_less_than_a_block_in_common_is_not_shared():
    shape = cache_shape(PRESETS["llama-3.1-8b"], 2, 1, 16)
    blocks = request_blocks(shape, RequestShape(prompt=100, instruction=40, answer=20, rows=2, common=15))
    assert (blocks.shared, blocks.tails) == (0, (8, 10))


def test_what_is_shared_is_computed_once():
    request = RequestShape(prompt=100, instruction=40, answer=20, rows=3, common=95)
    assert prompt_tokens_computed(16, request) == 100 + 2 * (140 - 80)


def test_layers_with_a_window_let_go_of_what_it_has_passed():
    """Four such layers in two tables, two others in one. 100 tokens are 7 blocks; the window begins in the fifth."""
    shape = cache_shape(WINDOWED, 2, 1, 16)
    assert [group.tables for group in shape.groups] == [2, 1]
    assert shape.block_bytes == 2 * 16 * 2 * 2 * 8 * 2  # layers, tokens, key and value, heads, numbers, bytes
    assert blocks_held(shape, 100) == 2 * (7 - 4) + 7


def test_of_layers_with_a_window_rows_share_what_both_still_hold():
    """96 tokens in common are 6 blocks, of which those layers still hold two."""
    shape = cache_shape(WINDOWED, 2, 1, 16)
    assert blocks_shared(shape, 96, 100) == 2 * (6 - 4) + 6


@given(
    prompt=st.integers(10, 3000), instruction=st.integers(0, 300), answer=st.integers(1, 500), rows=st.integers(2, 4)
)
@pytest.mark.parametrize("sizes", [PRESETS["llama-3.1-8b"], PRESETS["gemma-2-9b"], WINDOWED], ids=lambda one: one.name)
def test_a_group_takes_no_less_than_its_longest_row_and_no_more_than_rows_apart(
    sizes, prompt, instruction, answer, rows
):
    shape = cache_shape(sizes, 2, 1, 16)
    request = RequestShape(prompt, instruction, answer, rows, common=prompt - 5)
    held = [blocks_held(shape, tokens) for tokens in request.lengths()]
    blocks = request_blocks(shape, request)
    assert max(held) <= blocks.total <= sum(held)
    assert blocks.shared >= 0
    assert min(blocks.tails) >= 0
