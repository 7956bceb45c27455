"""What the scheduler for groups does not start with."""

from types import SimpleNamespace

import pytest
import torch
from vllm.v1.kv_cache_interface import ChunkedLocalAttentionSpec, KVCacheConfig, KVCacheGroupSpec

from sda_engine.errors import ConfigError
from sda_integrations.vllm.refusals import refuse_untested
from sda_integrations.vllm.scheduler import SyncGroupScheduler
from tests.vllm.small_vllm import Grammars, Machine, changed, make_config, make_scheduler


def parallel(name):
    return lambda one: setattr(one, "parallel_config", changed(one.parallel_config, **{name: 2}))


def model(**values):
    def change(one):
        config = one.vllm_config
        one.vllm_config = changed(config, model_config=changed(config.model_config, **values))

    return change


CHANGES = {
    "speculative decoding": (
        lambda one: setattr(one, "vllm_config", changed(one.vllm_config, speculative_config=object())),
        "leave out --speculative-config",
    ),
    "priorities": (lambda one: setattr(one.scheduler_config, "policy", "priority"), "use fcfs"),
    "whole prompts": (
        lambda one: setattr(one.scheduler_config, "enable_chunked_prefill", False),
        "leave out --no-enable-chunked-prefill",
    ),
    "short steps": (
        lambda one: setattr(one, "max_num_scheduled_tokens", 15),
        "15 tokens a step are less than the 16 sequences",
    ),
    "a pipeline": (parallel("pipeline_parallel_size"), "--pipeline-parallel-size 2 is not tested"),
    "parts of a context": (parallel("decode_context_parallel_size"), "--decode-context-parallel-size 2 is not tested"),
    "a KV connector": (lambda one: setattr(one, "connector", object()), "leave out --kv-transfer-config"),
    "an encoder connector": (lambda one: setattr(one, "ec_connector", object()), "leave out --ec-transfer-config"),
    "an encoder": (lambda one: setattr(one, "is_encoder_decoder", True), "serve one that is a decoder"),
    "a pooling model": (model(runner_type="pooling"), "does not generate"),
    "diffusion": (lambda one: setattr(one, "num_sampled_tokens_per_step", 0), "does not generate"),
    "replayed prefixes": (lambda one: setattr(one, "prefix_replay_tokens", 64), "blocks in several pools"),
    "a pool of its own": (
        lambda one: setattr(one.kv_cache_manager.coordinator, "block_pool", object()),
        "blocks in several pools",
    ),
}


@pytest.mark.parametrize(("change", "remedy"), CHANGES.values(), ids=CHANGES.keys())
def test_what_was_not_tested_is_refused_with_the_remedy(change, remedy):
    scheduler = make_scheduler(Machine())
    refuse_untested(scheduler)
    change(scheduler)
    with pytest.raises(ConfigError, match=remedy):
        refuse_untested(scheduler)


def test_all_that_is_wrong_is_said_at_once():
    scheduler = make_scheduler(Machine())
    scheduler.connector = scheduler.ec_connector = SimpleNamespace()
    with pytest.raises(ConfigError, match=r"SDA cannot run in this vLLM: KV connectors .*; encoder connectors .*\."):
        refuse_untested(scheduler)


def test_layers_whose_blocks_cannot_be_counted_are_refused_at_construction():
    machine = Machine()
    chunked = ChunkedLocalAttentionSpec(
        block_size=4, num_kv_heads=1, head_size=1, dtype=torch.float32, attention_chunk_size=8
    )
    layers = KVCacheConfig(num_blocks=20, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], chunked)])
    with pytest.raises(
        ConfigError, match="ChunkedLocalAttentionSpec; serve a model of full or sliding-window attention"
    ):
        SyncGroupScheduler(
            vllm_config=make_config(machine),
            kv_cache_config=layers,
            structured_output_manager=Grammars(),
            block_size=4,
            hash_block_size=4,
        )
