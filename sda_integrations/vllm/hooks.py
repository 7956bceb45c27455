"""What of vLLM is used that vLLM does not promise to keep: one list. Importing this module imports no vLLM."""

from dataclasses import dataclass

_SCHEDULER = "vllm.v1.core.sched.scheduler"
_CORE = "vllm.v1.engine.core"
_CACHE = "vllm.v1.core.kv_cache_manager"
_COORDINATOR = "vllm.v1.core.kv_cache_coordinator"
_LEGACY = "vllm.v1.sample.logits_processor.interface"
_RUNNER_V2 = "vllm.v1.worker.gpu.sample.logits_processor.interface"
_ENGINE = "vllm.v1.engine.async_llm"
_SERVE = "vllm.entrypoints.cli.serve"


@dataclass(frozen=True)
class Hook:
    """Something of vLLM that is overridden, called, read or set.

    Attributes:
        module: where it is.
        name: of a function or a class, or of a method, as "Class.method".
        why: what it does for us; completes the sentence "... is missing, which ...".
        parameters: names of what it takes, without self, in this order; more may follow where they have defaults.
        uses: names of attributes that it must read, set or call, since ours change or read them.
    """

    module: str
    name: str
    why: str
    parameters: tuple[str, ...] | None = None
    uses: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


def _scheduler(method: str, why: str, *parameters: str, uses: tuple[str, ...] = ()) -> Hook:
    return Hook(_SCHEDULER, f"Scheduler.{method}", why, parameters, uses)


SCHEDULING: tuple[Hook, ...] = (
    Hook(_CORE, "EngineCore.__init__", "makes the scheduler", None, ("get_scheduler_cls", "scheduler")),
    Hook(_CORE, "EngineCore.step", "runs a step", (), ("schedule", "update_from_output")),
    Hook(_CORE, "EngineCore.step_with_batch_queue", "runs a step ahead", (), ("schedule", "update_from_output")),
    Hook(_CORE, "EngineCore.add_request", "takes requests on", ("request",), ("add_request",)),
    Hook(_CORE, "EngineCore.abort_requests", "aborts requests", ("request_ids",), ("finish_requests",)),
    Hook(
        _SCHEDULER,
        "Scheduler.__init__",
        "sets what groups are kept together by",
        ("vllm_config", "kv_cache_config", "structured_output_manager", "block_size"),
        (
            *("running", "waiting", "requests", "max_num_active_reqs", "max_num_scheduled_tokens", "kv_cache_manager"),
            *("num_waiting_for_streaming_input", "scheduler_reserve_full_isl", "_pause_state", "lora_config"),
        ),
    ),
    _scheduler(
        "schedule",
        "chooses what is computed",
        uses=(
            *("running", "waiting", "max_num_active_reqs", "num_waiting_for_streaming_input", "peek_request"),
            *("_handle_blocked_waiting_request", "_reserve_prefill_lookahead", "_get_local_prefix_cache_hit"),
            *("_preempt_request", "num_output_placeholders", "num_computed_tokens"),
        ),
    ),
    _scheduler("add_request", "takes the hidden rows on", "request"),
    _scheduler("update_from_output", "tells of tokens", "scheduler_output", "model_runner_output"),
    _scheduler("finish_requests", "ends groups as a whole", "request_ids", "finished_status"),
    _scheduler("_handle_blocked_waiting_request", "lets groups in as a whole", "request"),
    _scheduler(
        "_reserve_prefill_lookahead",
        "holds the last token of a prompt until all rows have come as far",
        *("request", "num_computed_tokens", "num_new_tokens"),
    ),
    _scheduler("_get_local_prefix_cache_hit", "leaves tokens to hold", "request"),
    _scheduler("_preempt_request", "puts off whole groups", "request", "timestamp", "drop_stale_output"),
    _scheduler("_is_blocked_waiting_status", "tells who cannot start", "status"),
    Hook(
        "vllm.v1.core.sched.async_scheduler",
        "AsyncScheduler._update_request_with_output",
        "counts tokens that are being drawn",
        ("request", "new_token_ids"),
        ("num_output_placeholders",),
    ),
    Hook(
        "vllm.v1.request",
        "Request.__init__",
        "makes hidden rows",
        None,
        (
            *("client_index", "num_output_placeholders", "num_computed_tokens", "num_stale_output_tokens"),
            *("drop_stale_output", "sampling_params", "max_tokens", "arrival_time", "_block_hasher"),
        ),
    ),
    Hook(_CACHE, "KVCacheManager.get_computed_blocks", "tells what of a prompt is cached", ("request",)),
    Hook(
        _CACHE, "KVCacheManager.create_kv_cache_blocks", "makes a shorter hit, which leaves tokens to hold", ("blocks",)
    ),
    Hook(
        _COORDINATOR,
        "KVCacheCoordinator.find_longest_cache_hit",
        "finds a shorter hit",
        ("block_hashes", "max_cache_hit_length"),
    ),
    Hook(
        _COORDINATOR,
        "KVCacheCoordinator.get_num_blocks_to_allocate",
        "tells how many blocks a row needs",
        (
            *("request_id", "num_tokens", "new_computed_blocks", "num_encoder_tokens", "total_computed_tokens"),
            *("num_local_computed_tokens", "num_tokens_main_model"),
        ),
    ),
    Hook("vllm.v1.core.block_pool", "BlockPool.get_num_free_blocks", "tells how much room there is", ()),
    Hook("vllm.v1.core.single_type_kv_cache_manager", "FullAttentionManager", "needs blocks as we count them"),
    Hook("vllm.v1.core.single_type_kv_cache_manager", "SlidingWindowManager", "needs blocks as we count them"),
    Hook("vllm.v1.core.sched.interface", "PauseState.PAUSED_NEW", "tells that nobody more is admitted"),
)
"""What the scheduler for groups uses."""

DRAWING: tuple[Hook, ...] = (
    Hook(_LEGACY, "LogitsProcessor.__init__", "is how a processor is made", ("vllm_config", "device", "is_pin_memory")),
    Hook(_LEGACY, "LogitsProcessor.apply", "is where the first model runner draws", ("logits",)),
    Hook(_LEGACY, "LogitsProcessor.update_state", "tells which rows there are", ("batch_update",)),
    Hook(_LEGACY, "LogitsProcessor.is_argmax_invariant", "tells that greedy requests are changed too", ()),
    Hook(
        "vllm.v1.sample.logits_processor.builtin",
        "process_dict_updates",
        "follows rows as they move",
        ("req_entries", "batch_update", "new_state"),
    ),
    Hook(
        _RUNNER_V2,
        "LogitsProcessor.__init__",
        "is how Model Runner V2 makes a processor",
        ("vllm_config", "req_states"),
    ),
    Hook(_RUNNER_V2, "LogitsProcessor.add_request", "tells which rows there are", ("req_idx", "sampling_params")),
    Hook(_RUNNER_V2, "LogitsProcessor.apply", "is where Model Runner V2 draws", ("logits", "ctx")),
    Hook(_RUNNER_V2, "LogitsProcessor.validate_params", "refuses a request's settings", ("sampling_params",)),
)
"""What the logits processor uses."""

SERVING: tuple[Hook, ...] = (
    Hook(
        "vllm.entrypoints.serve.middleware.register",
        "init_entrypoints_middleware",
        "adds ours behind vLLM's own, so that it sees requests first",
        ("args", "app", "supported_tasks"),
        ("middleware", "add_middleware"),
    ),
    Hook(_SERVE, "ServeSubcommand.subparser_init", "reads vLLM's arguments", ("subparsers",)),
    Hook(_SERVE, "ServeSubcommand.validate", "checks vLLM's arguments", ("args",)),
    Hook(_SERVE, "ServeSubcommand.cmd", "starts vLLM's server", ("args",)),
    Hook("vllm.entrypoints.serve.utils.api_utils", "cli_env_setup", "sets how vLLM starts processes", ()),
    Hook("vllm.logger", "configure_logging_from_args", "sets up vLLM's log", ("args",)),
    Hook("vllm.config.scheduler", "SchedulerConfig.get_scheduler_cls", "takes a scheduler by its path", ()),
    Hook(
        "vllm.v1.engine.async_llm", "AsyncLLM.generate", "decodes groups", ("prompt", "sampling_params", "request_id")
    ),
    Hook("vllm.renderers.chat_utils", "load_chat_template", "reads --chat-template", ("chat_template",)),
    Hook("vllm.exceptions", "VLLMClientError", "tells what vLLM refuses"),
    Hook("vllm.v1.engine.exceptions", "EngineDeadError", "tells that the engine has died"),
)
"""What the server and the command use."""

SURFACE = SCHEDULING + DRAWING + SERVING
