"""What `sda info` tells: of this installation, this machine and a model, whose weights are not loaded."""

import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version

import psutil
import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_CACHE
from torch import nn
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel

from sda_engine.cli.options import ModelOptions
from sda_engine.decoding import cache_bytes, foreseen_runner, storing_layers
from sda_engine.errors import ModelLoadError
from sda_engine.models import (
    available_memory,
    context_window,
    explain_cut,
    explain_dtype,
    memory_limits,
    pays_to_pack,
    processor_features,
    resolve_device,
    resolve_dtype,
)
from sda_engine.models.auto_classes import model_class_of, read_config, sees_pictures
from sda_engine.models.gguf_conversion import cache_path, find_converted_folder
from sda_engine.models.loading import ALIASES, find_model

Facts = dict[str, object]

_PACKAGES = ("sda-integrations", "torch", "transformers", "langchain-core", "llama-index-core")
_FEATURES = ("avx2", "avx512_f", "avx512_bf16", "avx512_vnni", "amx_bf16", "bf16", "sve_bf16", "sve", "i8mm")


def gather(options: ModelOptions) -> Facts:
    """Everything, as plain JSON; sizes are in bytes.

    Raises:
        ConfigError: device or dtype is unknown or not available here.
    """
    device = resolve_device(options.device)
    dtype = resolve_dtype(options.dtype, device)
    model = _model_facts(options.model, dtype, device)
    return {
        "versions": _versions(),
        "machine": _machine_facts(options, device, dtype),
        "memory": _memory_facts(device, model),
        "cache": _cache_facts(),
        "model": model,
    }


def _versions() -> Facts:
    versions: Facts = {"python": python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return versions


def _machine_facts(options: ModelOptions, device: torch.device, dtype: torch.dtype) -> Facts:
    known = processor_features()
    return {
        "device": str(device),
        "dtype": str(dtype).removeprefix("torch."),
        "dtype_reason": explain_dtype(options.dtype, device),
        "processor": known.get("cpu_name"),
        "processor_features": [name for name in _FEATURES if known.get(name) is True],
        "threads": torch.get_num_threads(),
        "cores": psutil.cpu_count(logical=False),
        "usable_processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def _memory_facts(device: torch.device, model: Facts) -> Facts:
    host = psutil.virtual_memory()
    limits = [limit for limit in memory_limits() if limit.limit < host.total]
    tightest = min(limits, key=lambda limit: limit.free, default=None)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    taken = sum(size for name in ("weights_bytes", "packed_bytes") if isinstance(size := model.get(name), int))
    room = cache_bytes(max(0, free - taken))
    per_token = model.get("bytes_per_token")
    return {
        "host_total": host.total,
        "host_available": host.available,
        "container_limit": None if tightest is None else tightest.limit,
        "container_available": None if tightest is None else tightest.free,
        "keys_and_values": room,
        "keys_and_values_tokens": room // per_token if isinstance(per_token, int) and per_token else None,
    }


def _cache_facts() -> Facts:
    converted, hub = cache_path(), Path(HF_HUB_CACHE)
    return {
        "converted_models": str(converted),
        "converted_models_bytes": _size(converted),
        "hub": str(hub),
        "hub_bytes": _size(hub),
    }


def _size(folder: Path) -> int:
    """Bytes of the files in a folder, each of them once."""
    files = (file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    return sum(file.stat().st_size for file in files)


def _model_facts(name: str, dtype: torch.dtype, device: torch.device) -> Facts:
    found, place, folder = _find(name)
    facts: Facts = {"name": name, "found": found, "place": place}
    if folder is None:
        return facts
    try:
        config = read_config(str(folder), None, name)
        length = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False).model_max_length
        weights = _weight_facts(config, dtype, device)
    except (ModelLoadError, OSError, ValueError, KeyError) as error:
        return {**facts, "problem": str(error).strip().splitlines()[0]}
    window = context_window(config, length)
    facts |= {"type": config.model_type, "context_window": window.tokens, "stated_context_window": window.stated}
    facts["sees_pictures"] = sees_pictures(config)
    if reason := explain_cut(window):
        facts["context_window_reason"] = reason
    return facts | weights


def _find(name: str) -> tuple[str, str, Path | None]:
    """Where a model is, in words and as a path; and the folder with its configuration, where there is one."""
    place = find_model(name)
    if isinstance(place, str):
        cached = try_to_load_from_cache(place, "config.json")
        if isinstance(cached, str):
            return "in the Hub's cache", str(Path(cached).parent), Path(cached).parent
        return "not on this machine: it would be asked for at the Hub", place, None
    if place.is_dir():
        return "a folder", str(place), place
    converted = find_converted_folder(place) if cache_path().is_dir() else None
    where = f"in the package {ALIASES[name].package}" if name in ALIASES else "a GGUF file"
    if converted is None:
        return f"{where}, not converted yet: the first load does it, in half a minute", str(place), None
    return f"{where}, converted", str(converted), converted


def _bytes_per_token(model: PreTrainedModel, dtype: torch.dtype) -> int:
    """Of its keys and values in all layers that store any."""
    text = model.config.get_text_config(decoder=True)
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(storing_layers(model) * 2 * heads * size * dtype.itemsize)


def _runner_facts(model: PreTrainedModel) -> Facts:
    """How the engine would run it, as far as the configuration tells; what loading it shows may be another way."""
    name, reason = foreseen_runner(model)
    return {"runner": name} if reason is None else {"runner": name, "runner_reason": reason}


def _weight_facts(config: PreTrainedConfig, dtype: torch.dtype, device: torch.device) -> Facts:
    """What runs the model, what its weights take, and whether they are packed too: from a model that holds none."""
    with torch.device("meta"):
        model = model_class_of(config).from_config(config)  # type: ignore[no-untyped-call]
    weights = dtype.itemsize * sum(weight.numel() for weight in model.parameters())
    facts: Facts = {
        **_runner_facts(model),
        "bytes_per_token": _bytes_per_token(model, dtype),
        "weights_bytes": weights,
        "packed": False,
    }
    if device.type != "cpu" or dtype != torch.float32:
        return facts | {"packed_reason": "only float32 on a CPU gains by it"}
    linear = dtype.itemsize * sum(layer.weight.numel() for layer in model.modules() if type(layer) is nn.Linear)
    if not pays_to_pack(linear, max(0, available_memory() - weights)):
        return facts | {"packed_reason": "there is too little memory, or torch has no oneDNN"}
    return facts | {"packed": True, "packed_bytes": linear}
