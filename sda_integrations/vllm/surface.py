"""What of vLLM is used that vLLM does not promise to keep: one list, and the check that all of it is there.

Importing this module imports no vLLM.
"""

import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import CodeType

TESTED = ((0, 32),)
"""Major and minor numbers of the versions of vLLM that this package was tested with."""

_SCHEDULER = "vllm.v1.core.sched.scheduler"
_CORE = "vllm.v1.engine.core"


@dataclass(frozen=True)
class Hook:
    """Something of vLLM that is overridden or called.

    Attributes:
        module: where it is.
        name: of a function or a class, or of a method, as "Class.method".
        why: what it is needed for.
        parameters: names of what it takes, without self, in this order; more may follow where they have defaults.
        callers: functions that must use it by its name, as "module:function" or "module:Class.method".
    """

    module: str
    name: str
    why: str
    parameters: tuple[str, ...] | None = None
    callers: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


def _scheduler(method: str, why: str, *parameters: str, callers: tuple[str, ...] = ()) -> Hook:
    return Hook(_SCHEDULER, f"Scheduler.{method}", why, parameters, callers)


_SCHEDULES = (f"{_SCHEDULER}:Scheduler.schedule",)

SURFACE: tuple[Hook, ...] = (
    _scheduler("add_request", "makes the hidden rows", "request", callers=(f"{_CORE}:EngineCore.add_request",)),
    _scheduler("schedule", "puts whole groups first", callers=(f"{_CORE}:EngineCore.step",)),
    _scheduler(
        "update_from_output",
        "keeps hidden rows from clients",
        "scheduler_output",
        "model_runner_output",
        callers=(f"{_CORE}:EngineCore.step", f"{_CORE}:EngineCore.step_with_batch_queue"),
    ),
    _scheduler(
        "finish_requests",
        "ends groups as a whole",
        "request_ids",
        "finished_status",
        callers=(f"{_CORE}:EngineCore.abort_requests",),
    ),
    _scheduler("_handle_blocked_waiting_request", "lets groups in as a whole", "request", callers=_SCHEDULES),
    _scheduler(
        "_reserve_prefill_lookahead",
        "holds the last token of a prompt until all rows have come as far",
        "request",
        "num_computed_tokens",
        "num_new_tokens",
        callers=_SCHEDULES,
    ),
    _scheduler("_get_local_prefix_cache_hit", "leaves tokens to hold", "request", callers=_SCHEDULES),
    _scheduler("_preempt_request", "puts off whole groups", "request", "timestamp", callers=_SCHEDULES),
    Hook(
        "vllm.v1.core.sched.async_scheduler",
        "AsyncScheduler._update_request_with_output",
        "counts tokens that are being drawn",
        ("request", "new_token_ids"),
        (f"{_SCHEDULER}:Scheduler.update_from_output",),
    ),
    Hook(
        "vllm.config.scheduler",
        "SchedulerConfig.get_scheduler_cls",
        "takes a scheduler by its path",
        (),
        (f"{_CORE}:EngineCore.__init__",),
    ),
    Hook(
        "vllm.v1.sample.logits_processor.interface",
        "LogitsProcessor.__init__",
        "is how the first model runner makes a processor",
        ("vllm_config", "device", "is_pin_memory"),
    ),
    Hook(
        "vllm.v1.sample.logits_processor.interface",
        "LogitsProcessor.apply",
        "is where the first model runner draws",
        ("logits",),
    ),
    Hook(
        "vllm.v1.sample.logits_processor.interface",
        "LogitsProcessor.update_state",
        "tells which rows there are",
        ("batch_update",),
    ),
    Hook(
        "vllm.v1.worker.gpu.sample.logits_processor.interface",
        "LogitsProcessor.__init__",
        "is how Model Runner V2 makes a processor",
        ("vllm_config", "req_states"),
    ),
    Hook(
        "vllm.v1.worker.gpu.sample.logits_processor.interface",
        "LogitsProcessor.add_request",
        "tells which rows there are",
        ("req_idx", "sampling_params"),
    ),
    Hook(
        "vllm.v1.worker.gpu.sample.logits_processor.interface",
        "LogitsProcessor.apply",
        "is where Model Runner V2 draws",
        ("logits", "ctx"),
    ),
    Hook(
        "vllm.entrypoints.serve.middleware.register",
        "init_entrypoints_middleware",
        "adds the middleware behind vLLM's own, so that it sees requests first",
        ("args", "app", "supported_tasks"),
    ),
    Hook("vllm.entrypoints.cli.serve", "ServeSubcommand.subparser_init", "reads vLLM's arguments", ("subparsers",)),
    Hook("vllm.entrypoints.cli.serve", "ServeSubcommand.validate", "checks vLLM's arguments", ("args",)),
    Hook("vllm.entrypoints.cli.serve", "ServeSubcommand.cmd", "starts vLLM's server", ("args",)),
    Hook("vllm.entrypoints.serve.utils.api_utils", "cli_env_setup", "sets how vLLM starts processes", ()),
    Hook("vllm.logger", "configure_logging_from_args", "sets up vLLM's log", ("args",)),
)


def is_tested(version: str) -> bool:
    """Whether this package was tested with a version of vLLM, such as "0.32.0" or "0.32.1+cu129"."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) in TESTED


def tested_versions() -> str:
    """The versions that this package was tested with, as text."""
    return " and ".join(f"{major}.{minor}.x" for major, minor in TESTED)


def check_surface(surface: Sequence[Hook] = SURFACE) -> list[str]:
    """What is missing of the surface, or works otherwise; a sentence each, and none where all is as it was tested.

    It imports vLLM, which takes ten seconds.
    """
    return [problem for hook in surface for problem in _problems(hook)]


def demand_surface(surface: Sequence[Hook] = SURFACE) -> None:
    """Refuse to go on in a vLLM that lacks what is needed: its answers would be wrong in silence.

    Raises:
        ImportError: something is missing.
    """
    problems = check_surface(surface)
    if problems:
        raise ImportError(
            f"This vLLM is none that SDA can run in: {' '.join(problems)} Install vLLM {tested_versions()}, with: "
            f"sda vllm --install"
        )


def _problems(hook: Hook) -> Iterator[str]:
    try:
        found = _find(hook.module, hook.name)
    except (ImportError, AttributeError) as error:
        yield f"{hook} is missing, which {hook.why} ({error})."
        return
    if hook.parameters is not None and not _takes(found, hook.parameters):
        yield f"{hook}, which {hook.why}, takes {_shown(found)} in place of ({', '.join(hook.parameters)})."
    for caller in hook.callers:
        try:
            used = hook.name.rpartition(".")[2] in _names_used(_find(*caller.split(":")))
        except (ImportError, AttributeError):
            used = False
        if not used:
            yield f"{hook}, which {hook.why}, is not used by {caller.replace(':', '.')}."


def _find(module: str, name: str) -> object:
    found: object = import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _takes(found: object, expected: tuple[str, ...]) -> bool:
    if not callable(found):
        return False
    parameters = [one for name, one in inspect.signature(found).parameters.items() if name != "self"]
    if tuple(one.name for one in parameters[: len(expected)]) != expected:
        return False
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(one.default is not one.empty or one.kind in optional for one in parameters[len(expected) :])


def _shown(found: object) -> str:
    return str(inspect.signature(found)) if callable(found) else f"nothing: it is a {type(found).__name__}"


def _names_used(function: object) -> set[str]:
    """The names of attributes and globals that a function uses, those of functions within it too."""
    code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
    waiting, names = [code], set[str]()
    while waiting:
        if isinstance(one := waiting.pop(), CodeType):
            names |= set(one.co_names)
            waiting += one.co_consts
    return names
