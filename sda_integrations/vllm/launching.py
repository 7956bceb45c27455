"""`sda vllm MODEL`: finds the model and vLLM, and becomes vLLM's server with SDA in it."""

import os
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from pydantic import SecretStr

from sda_engine.cli.requests import combined, quieten_transformers
from sda_engine.cli.terminal import error_console
from sda_engine.errors import ConfigError
from sda_engine.models.gguf_conversion import converted_folder
from sda_engine.models.loading import ModelSettings, find_model
from sda_integrations.server.reading import read_settings
from sda_integrations.vllm.environments import Environment
from sda_integrations.vllm.handed_over import HandedOver
from sda_integrations.vllm.options import VLLMOptions

FILE_NAMES = (
    *("model", "alignment", "alignments", "steering", "sampling", "limits"),
    *("cors_origins", "served_model_name", "host", "port", "api_keys"),
)
"""What of the files of `sda serve` makes sense where vLLM loads the model, and no evaluator can run."""

_KEYS = "SDA_API_KEY"
_SERVING = "sda_integrations.vllm.serving"


def launch(model: str | None, options: VLLMOptions, environment: Environment, arguments: Sequence[str]) -> None:
    """Replace this process by vLLM's server.

    Args:
        model: alias, path or Hub id; None means the file's, or the default.
        options: of SDA's part.
        environment: that has vLLM.
        arguments: of `vllm serve`.

    Raises:
        ConfigError: settings are out of range.
        ModelLoadError: the model cannot be converted for vLLM.
    """
    handed_over = hand_over(model, options)
    command = environment.command(_SERVING, [handed_over.model, *arguments])
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], command, environment.environ() | handed_over.to_env())  # noqa: S606 - no shell is wanted


def hand_over(model: str | None, options: VLLMOptions) -> HandedOver:
    """What the server has to know, with all settings checked here, where an error is told at once.

    Raises:
        ConfigError: a setting is unknown or out of range.
        ModelLoadError: the model cannot be converted for vLLM.
    """
    file = None if options.config is None else options.config.absolute()
    settings = read_settings(file, {})
    if file is not None:
        _check_names(file)
    name = model or (settings.model.model if "model" in settings.model.model_fields_set else ModelSettings().model)
    keys = tuple(map(SecretStr, os.environ.get(_KEYS, "").split())) or settings.server.api_keys
    values: dict[str, object] = {
        "model": name,
        "served_model_name": options.served_model_name or settings.server.served_model_name or name,
        "alignment": combined(options.alignment) if options.alignment else None,
        "config": None if file is None else str(file),
        "host": settings.server.host,
        "port": settings.server.port,
        "api_keys": keys,
    }
    handed_over = HandedOver.of_values(values)
    handed_over.server_settings()
    return handed_over.replace(model=_located(name))


def _check_names(file: Path) -> None:
    """Refuse what is legal in a file for `sda serve`, and has no effect here.

    Raises:
        ConfigError: there is such a name.
    """
    for name in tomllib.loads(file.read_text(encoding="utf-8")):
        if name not in FILE_NAMES:
            raise ConfigError(
                f"--config {file} has {name!r}, which `sda vllm` does not take: how a model is loaded is for arguments "
                f"of `vllm serve` behind MODEL to say, and evaluators run in clients (RemoteEngine). Take it out. What "
                f"can be given: {', '.join(FILE_NAMES)}."
            )


def _located(model: str) -> str:
    """What vLLM loads: a folder, converted from a GGUF file where it has to be, or a Hub id."""
    found = find_model(model)
    if not isinstance(found, Path):
        return found
    if found.is_dir():
        return str(found.absolute())
    quieten_transformers()
    with error_console().status(f"Converting {model} ..."):
        return str(converted_folder(found))
