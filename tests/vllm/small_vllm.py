"""vLLM's scheduler without a model: all that it is told of one, small enough to run out of everything."""

import json
import tempfile
from copy import copy
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from vllm.config import CacheConfig, DeviceConfig, ModelConfig, ParallelConfig, SchedulerConfig, VllmConfig
from vllm.lora.request import LoRARequest
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec, SlidingWindowSpec
from vllm.v1.request import Request

from sda_integrations.vllm.scheduler import AsyncGroupScheduler, SyncGroupScheduler

VOCAB = 64
EOS = 0
STOP = 5
WINDOW = 128
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16, "intermediate_size": 32,
    "num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": VOCAB,
    "max_position_embeddings": WINDOW, "torch_dtype": "float32", "rms_norm_eps": 1e-5,
}  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """How vLLM is set up.

    Attributes:
        sliding_window: tokens that a second kind of layers looks back; 0 for models without such.
        adapters: LoRA adapters that may run in one step; 0 for none.
        second_runner: whether workers are told in the way of Model Runner V2.
        clients: whether several API servers share the engine, which are told which requests have finished.
    """

    asynchronous: bool = False
    block_size: int = 4
    blocks: int = 200
    sequences: int = 16
    tokens_per_step: int = 64
    window: int = WINDOW
    prefix_caching: bool = True
    reserve: bool = True
    watermark: float = 0.0
    long_prefill: int = 0
    sliding_window: int = 0
    adapters: int = 0
    second_runner: bool = False
    clients: bool = False


class Grammars:
    """In place of vLLM's structured outputs: accepts every token, unless told otherwise."""

    def __init__(self) -> None:
        self.refused: set[str] = set()

    def accept_tokens(self, request: Request, token_ids: list[int]) -> bool:
        return request.request_id not in self.refused


@cache
def base_config() -> VllmConfig:
    """What takes a while to make, once."""
    folder = tempfile.mkdtemp(prefix="sda-llama-")
    with open(f"{folder}/config.json", "w", encoding="utf-8") as file:
        json.dump(LLAMA, file)
    init_none_hash(sha256)
    return VllmConfig(
        model_config=ModelConfig(model=folder, skip_tokenizer_init=True, dtype="float32", max_model_len=WINDOW),
        scheduler_config=SchedulerConfig(
            max_num_seqs=16, max_num_batched_tokens=64, max_model_len=WINDOW, enable_chunked_prefill=True,
            is_encoder_decoder=False, async_scheduling=False,
        ),
        cache_config=CacheConfig(block_size=4, gpu_memory_utilization=0.9, enable_prefix_caching=True),
        parallel_config=ParallelConfig(),
        device_config=DeviceConfig(device="cpu"),
    )  # fmt: skip


def changed(config: Any, **values: Any) -> Any:
    """A copy of a part of the settings; they are not checked again, which takes a while."""
    other = copy(config)
    for name, value in values.items():
        object.__setattr__(other, name, value)
    return other


def make_config(machine: Machine) -> VllmConfig:
    base = base_config()
    return changed(
        base,
        model_config=changed(base.model_config, max_model_len=machine.window),
        scheduler_config=changed(
            base.scheduler_config,
            max_num_seqs=machine.sequences,
            max_num_batched_tokens=machine.tokens_per_step,
            long_prefill_token_threshold=machine.long_prefill,
            scheduler_reserve_full_isl=machine.reserve,
            watermark=machine.watermark,
            async_scheduling=machine.asynchronous,
        ),
        cache_config=changed(
            base.cache_config,
            block_size=machine.block_size,
            enable_prefix_caching=machine.prefix_caching,
            num_gpu_blocks=machine.blocks,
        ),
    )


def make_kv_config(machine: Machine) -> KVCacheConfig:
    shape: dict[str, Any] = {"num_kv_heads": 1, "head_size": 1, "dtype": torch.float32}
    kinds: list[Any] = [FullAttentionSpec(block_size=machine.block_size, **shape)]
    if machine.sliding_window:
        kinds.append(SlidingWindowSpec(block_size=machine.block_size, sliding_window=machine.sliding_window, **shape))
    groups = [KVCacheGroupSpec([f"layer {place}"], kind) for place, kind in enumerate(kinds)]
    return KVCacheConfig(num_blocks=machine.blocks, kv_cache_tensors=[], kv_cache_groups=groups)


def make_scheduler(machine: Machine, *, plain: bool = False, config: VllmConfig | None = None) -> Scheduler:
    """A scheduler for groups, or vLLM's own."""
    kinds = (Scheduler, AsyncScheduler) if plain else (SyncGroupScheduler, AsyncGroupScheduler)
    scheduler = kinds[machine.asynchronous](
        vllm_config=config or make_config(machine),
        kv_cache_config=make_kv_config(machine),
        structured_output_manager=Grammars(),
        block_size=machine.block_size,
        hash_block_size=machine.block_size,
        include_finished_set=machine.clients,
        log_stats=True,
    )
    scheduler.use_v2_model_runner = machine.second_runner
    if machine.adapters:
        scheduler.lora_config = SimpleNamespace(max_loras=machine.adapters)
    return scheduler


def make_adapter(number: int) -> LoRARequest | None:
    """A LoRA adapter; none for 0."""
    return LoRARequest(f"adapter {number}", number, f"/adapters/{number}") if number else None


def make_request(
    name: str,
    prompt: list[int],
    *,
    rows: dict[str, Any] | None = None,
    max_tokens: int = 8,
    machine: Machine | None = None,
    grammar: bool = False,
    stops: bool = True,
    **given: Any,
) -> Request:
    """A client's request as vLLM's engine gets it.

    Args:
        rows: prompts of the hidden rows; None for a plain request.
        stops: whether an answer may end before it has all of its tokens.
    """
    params = SamplingParams(
        max_tokens=max_tokens,
        temperature=0.0,
        stop_token_ids=[STOP] if stops else [],
        extra_args=None if rows is None else {"sda": {"rows": rows, "settings": {"of": name}}},
        structured_outputs=StructuredOutputsParams(regex="a*") if grammar else None,
    )
    params._eos_token_id = EOS if stops else None
    machine = machine or Machine()
    base_config()  # it also says with what blocks are hashed
    hasher = get_request_block_hasher(machine.block_size, sha256) if machine.prefix_caching else None
    return Request(
        request_id=name,
        prompt_token_ids=prompt,
        sampling_params=params,
        pooling_params=None,
        block_hasher=hasher,
        **given,
    )
