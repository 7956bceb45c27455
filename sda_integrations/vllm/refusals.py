"""What the scheduler for groups refuses to start with: what it was not tested with, and what breaks the lock step."""

from collections.abc import Iterator
from typing import Any

from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager, SlidingWindowManager

from sda_engine.errors import ConfigError

_KINDS = (FullAttentionManager, SlidingWindowManager)
"""Managers of those kinds of layers whose need for blocks is known exactly; not those that are derived from them."""


def refuse_untested(scheduler: Any) -> None:
    """Refuse to start a scheduler on what groups cannot run on.

    Raises:
        ConfigError: with all that has to be changed.
    """
    found = [*_wrong_settings(scheduler), *_wrong_parts(scheduler), *_wrong_layers(scheduler)]
    if found:
        raise ConfigError(f"SDA cannot run in this vLLM: {'; '.join(found)}.")


def _wrong_settings(scheduler: Any) -> Iterator[str]:
    config, settings = scheduler.vllm_config, scheduler.scheduler_config
    if config.speculative_config is not None:
        yield "speculative decoding is not tested with groups (leave out --speculative-config)"
    if settings.policy != "fcfs":
        yield f"--scheduling-policy {settings.policy} is not tested with groups (use fcfs)"
    if not settings.enable_chunked_prefill:
        yield "a group reads its prompts in parts (leave out --no-enable-chunked-prefill)"
    step = min(scheduler.max_num_scheduled_tokens, settings.max_num_batched_tokens)
    if step < scheduler.max_num_active_reqs:
        yield (
            f"{step} tokens a step are less than the {scheduler.max_num_active_reqs} sequences that may run (raise "
            "--max-num-batched-tokens or lower --max-num-seqs)"
        )


def _wrong_parts(scheduler: Any) -> Iterator[str]:
    parallel = scheduler.parallel_config
    for name in ("pipeline_parallel_size", "decode_context_parallel_size", "prefill_context_parallel_size"):
        if getattr(parallel, name) > 1:
            option = name.replace("_", "-")
            yield f"--{option} {getattr(parallel, name)} is not tested with groups (use 1, and --tensor-parallel-size)"
    if scheduler.connector is not None:
        yield "KV connectors are not tested with groups (leave out --kv-transfer-config)"
    if scheduler.ec_connector is not None:
        yield "encoder connectors are not tested with groups (leave out --ec-transfer-config)"


def _wrong_layers(scheduler: Any) -> Iterator[str]:
    model = scheduler.vllm_config.model_config
    if scheduler.is_encoder_decoder or scheduler.is_mm_encoder_only:
        yield "a model with an encoder alone, or before its decoder, answers no groups (serve one that is a decoder)"
    elif model.runner_type != "generate" or scheduler.num_sampled_tokens_per_step != 1:
        yield "the model does not generate one token after the other (serve one that does)"
    coordinator = scheduler.kv_cache_manager.coordinator
    pool, managers = coordinator.block_pool, coordinator.single_type_managers
    kinds = sorted({type(one.kv_cache_spec).__name__ for one in managers if type(one) not in _KINDS})
    if kinds or not managers:
        yield (
            f"the blocks that its layers need are not known beforehand ({', '.join(kinds) or 'no KV cache'}; serve a "
            "model of full or sliding-window attention)"
        )
    elif any(one.block_pool is not pool for one in managers) or scheduler.prefix_replay_tokens:
        yield "its layers keep blocks in several pools (serve a model of full or sliding-window attention)"
