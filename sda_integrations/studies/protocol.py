"""The protocol of a study: all that its figures depend on, and the refusal to mix what was measured under two."""

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue

from sda_engine import SteeringEngine
from sda_engine.errors import ConfigError
from sda_integrations.studies.data import Source, digest_of
from sda_integrations.studies.study import Study

FILE = "protocol.json"
_PACKAGES = ("sda-integrations", "torch", "transformers", "inspect-ai", "llguidance", "openai")
_MACHINE = "machine"  # told, but no part of what must agree: speed alone depends on it
_LOOKED_AT = 64  # numbers at each end of a tensor


def make_protocol(study: Study, sources: Mapping[str, Source], engine: SteeringEngine) -> dict[str, JsonValue]:
    """Everything that figures depend on, as plain JSON, with the `digest` of all of it but the machine.

    Args:
        study: what is run, samples' limits filled in.
        sources: task -> where its samples come from.
        engine: the study's model.
    """
    told = engine.describe()
    told.pop("weights_id", None)  # differs from process to process; the digest tells
    protocol: dict[str, Any] = {
        "study": study.model_dump(mode="json"),
        "versions": {name: _version(name) for name in _PACKAGES},
        "model": {**told, "digest": weights_digest(engine)},
        "data": {task: asdict(source) for task, source in sources.items()},
    }
    return {**protocol, "digest": digest_of(protocol)[:16], _MACHINE: _machine()}


def check_free(folder: Path, *, resume: bool) -> None:
    """Refuse a folder that holds a study which is not to be resumed: worth asking before a model is loaded.

    Raises:
        ConfigError: it does.
    """
    if not resume and (folder / FILE).is_file():
        raise ConfigError(f"{folder} holds a study already: go on with it by --resume, or choose another --out.")


def keep_protocol(protocol: Mapping[str, JsonValue], folder: Path, *, resume: bool) -> None:
    """Write the protocol into a study's folder, or find that what lies there was measured under the same one.

    Raises:
        ConfigError: the folder holds a study that is not to be resumed, or was measured under another protocol; or the
            file cannot be read or written.
    """
    path = folder / FILE
    try:
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        folder.mkdir(parents=True, exist_ok=True)
        if known is None:
            path.write_text(json.dumps(protocol, indent=2, ensure_ascii=False), encoding="utf-8")
            return
    except (OSError, ValueError) as error:
        raise ConfigError(f"The protocol {path} cannot be read or written: {error}. Choose another --out.") from error
    check_free(folder, resume=resume)
    if known.get("digest") != protocol["digest"]:
        raise ConfigError(
            f"{folder} was measured under another protocol, and what is measured now would not be comparable: "
            f"{'; '.join(differences(known, protocol)[:5])}. Run it as it was, or choose another --out."
        )


def differences(old: object, new: object, name: str = "") -> list[str]:
    """Where two protocols differ, each as 'field: old, now new'."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for key in [*old, *(key for key in new if key not in old)]:
            if name or key not in ("digest", _MACHINE):
                found += differences(old.get(key), new.get(key), f"{name}.{key}" if name else str(key))
        return found
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [found for place, pair in pairs for found in differences(*pair, f"{name}[{place}]")]
    return [] if old == new else [f"{name}: {_short(old)}, now {_short(new)}"]


def weights_digest(engine: SteeringEngine) -> str:
    """A digest of the weights' names, shapes and types, and of a few numbers at each end of every tensor."""
    told = []
    for name, tensor in sorted(engine.model.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        ends = torch.cat([flat[:_LOOKED_AT], flat[-_LOOKED_AT:]]).float().cpu()
        told.append(
            [name, list(tensor.shape), str(tensor.dtype), ends.double().sum().item(), ends.double().norm().item()]
        )
    return digest_of(told)[:16]


def _machine() -> dict[str, JsonValue]:
    capabilities = torch.cpu.get_capabilities()
    return {
        "processor": str(capabilities.get("cpu_name", platform.processor())),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:59] + "…"
