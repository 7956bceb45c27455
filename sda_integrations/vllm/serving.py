"""Runs in vLLM's environment, as what `sda vllm MODEL` becomes: vLLM's server, with what steers in it."""

import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from ipaddress import ip_address

from pydantic import SecretStr

from sda_engine.errors import ConfigError, SDAError
from sda_integrations.server.settings import ServerSettings
from sda_integrations.vllm.arguments import MAX_LOGPROBS, RUST_FRONTEND, refuse_parsed
from sda_integrations.vllm.handed_over import HandedOver
from sda_integrations.vllm.surface import demand_surface

SCHEDULERS = {
    False: "sda_integrations.vllm.scheduler.SyncGroupScheduler",
    True: "sda_integrations.vllm.scheduler.AsyncGroupScheduler",
}
"""By whether vLLM schedules a step while the one before it runs."""

KV_SPACE = "VLLM_CPU_KVCACHE_SPACE"

_GIB = 2**30
_LARGEST_KV_SPACE = 4  # GiB, on a CPU, where nobody says; vLLM takes nine tenths of the machine, or does not start
_MEMORY = ("gpu_memory_utilization", "kv_cache_memory_bytes")

Parse = Callable[[Sequence[str]], Namespace]


def main() -> None:
    """Serve what the command line names until told to end."""
    try:
        args, run = prepare(sys.argv[1:])
    except (SDAError, ImportError) as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201 - for the terminal that the command had
        sys.exit(2)
    run(args)


def prepare(arguments: Sequence[str]) -> tuple[Namespace, Callable[[Namespace], None]]:
    """vLLM's arguments with ours among them, and what starts its server with them.

    Args:
        arguments: the model, and what else vLLM was given.

    Raises:
        ImportError: this vLLM lacks what is needed.
        ConfigError: an argument does not go with steering, or settings are out of range.
    """
    demand_surface()
    if os.environ.get(RUST_FRONTEND, "0") not in ("", "0"):
        raise ConfigError(f"{RUST_FRONTEND} cannot be set: SDA's part of the server is in Python. Unset it.")
    handed_over = HandedOver.from_env()
    settings = handed_over.server_settings()
    parse, run = _vllm()
    model, *given = arguments
    defaults, args = parse([model]), parse([model, *given])
    refuse_parsed(args, defaults)
    on_cpu = _is_on_cpu()
    ours = flags(asynchronous=is_asynchronous(args, on_cpu=on_cpu))
    if on_cpu:
        limit_memory(args, defaults)
    before = default_flags(handed_over, settings) + (_dtype_on_cpu() if on_cpu else [])
    args = parse([model, *before, *given, *ours])
    os.environ |= _agreed(args, handed_over).to_env()
    return args, run


def flags(*, asynchronous: bool) -> list[str]:
    """What makes a server of vLLM steer. It is said how steps are scheduled, so that the scheduler is always right."""
    return [
        *("--scheduler-cls", SCHEDULERS[asynchronous]),
        "--async-scheduling" if asynchronous else "--no-async-scheduling",
        *("--logits-processors", "sda_integrations.vllm.processor:SteeringProcessor"),
        *("--middleware", "sda_integrations.vllm.middleware.SDAMiddleware"),
        *("--logprobs-mode", "processed_logprobs"),
        *("--structured-outputs-config", json.dumps({"backend": "guidance"})),
    ]


def default_flags(handed_over: HandedOver, settings: ServerSettings) -> list[str]:
    """What holds where the user says nothing else: a server listens at this machine alone, as `sda serve` does."""
    origins = ["--allowed-origins", json.dumps(list(settings.cors_origins))] if settings.cors_origins else []
    return [
        *("--served-model-name", handed_over.served_model_name),
        *("--host", handed_over.host, "--port", str(handed_over.port)),
        *("--max-logprobs", str(MAX_LOGPROBS)),
        *origins,
    ]


def is_asynchronous(args: Namespace, *, on_cpu: bool) -> bool:
    """Whether vLLM shall schedule a step while the one before it runs: by default where it can.

    On a CPU it never does, whatever it is told; the executor of Ray cannot by default.
    """
    if on_cpu:
        return False
    if args.async_scheduling is not None:
        return bool(args.async_scheduling)
    with_ray = "ray" in (args.distributed_executor_backend, args.data_parallel_backend)
    return not with_ray and args.distributed_executor_backend in (None, "mp", "uni")


def limit_memory(args: Namespace, defaults: Namespace) -> None:
    """Let keys and values take a quarter of the memory that is free, and no more than 4 GiB, where nobody says.

    On a CPU vLLM would take nine tenths of all memory, and not start where less is free.
    """
    if KV_SPACE in os.environ or any(getattr(args, name) != getattr(defaults, name) for name in _MEMORY):
        return
    from sda_engine.models import available_memory  # here, since it imports transformers

    os.environ[KV_SPACE] = str(min(max(available_memory() // _GIB // 4, 1), _LARGEST_KV_SPACE))


def _dtype_on_cpu() -> list[str]:
    """A processor that has no bfloat16 of its own computes in float32, as the engine does there."""
    import torch

    from sda_engine.models import resolve_dtype

    dtype = resolve_dtype("auto", torch.device("cpu"))
    return ["--dtype", "float32"] if dtype == torch.float32 else []


def _agreed(args: Namespace, handed_over: HandedOver) -> HandedOver:
    """What the middleware has to know, as vLLM has understood it; vLLM is told the keys in turn."""
    keys = [key for key in (args.api_key or [os.environ.get("VLLM_API_KEY")]) if key]
    if not keys:
        keys = [key.get_secret_value() for key in handed_over.api_keys]
    args.api_key = keys or None
    host = args.host or "0.0.0.0"  # noqa: S104 - what vLLM takes it for
    if not keys and not _is_loopback(host) and not args.uds:
        print(  # noqa: T201 - for the terminal that the command had
            f"Warning: whoever can reach {host}:{args.port} can use this server, and it has no key. Set SDA_API_KEY, "
            f"or listen at 127.0.0.1.",
            file=sys.stderr,
        )
    return handed_over.replace(host=host, port=args.port, api_keys=tuple(SecretStr(key) for key in keys))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _vllm() -> tuple[Parse, Callable[[Namespace], None]]:
    """vLLM's parser of `vllm serve`, and what serves.

    Not the command `vllm` itself: it does not start where vLLM was installed under another name, as vllm-cpu is.
    """
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.logger import configure_logging_from_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    cli_env_setup()
    parser, command = FlexibleArgumentParser(prog="sda vllm"), ServeSubcommand()
    command.subparser_init(parser.add_subparsers(dest="subparser"))

    def parse(arguments: Sequence[str]) -> Namespace:
        args: Namespace = parser.parse_args([command.name, *arguments])
        return args

    def run(args: Namespace) -> None:
        configure_logging_from_args(args)
        command.validate(args)
        command.cmd(args)

    return parse, run


def _is_on_cpu() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())
