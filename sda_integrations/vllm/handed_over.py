"""What `sda vllm` hands over to the server that it becomes, whose middleware makes ServerSettings of it."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, TypeAdapter, ValidationError

from sda_engine.errors import ConfigError
from sda_engine.settings import Settings
from sda_integrations.server.settings import ServerSettings

VARIABLE = "SDA_VLLM_SETTINGS"
"""The environment variable in which it travels, as JSON."""

_VALUES = TypeAdapter(dict[str, object])


class HandedOver(Settings):
    """What vLLM's server has to know of the command that started it.

    Attributes:
        model: what vLLM loads: a folder, or a Hub id.
        served_model_name: what clients call it.
        alignment: what is steered by where a request does not say, as after --alignment; over that of the file.
        config: path of the file with settings; None for none.
        host, port: where the server listens.
        api_keys: keys of which a request must bring one; () lets anybody in.
    """

    model: str = Field(min_length=1, description="a folder or a Hub id")
    served_model_name: str = Field(min_length=1, description="a text without ':'")
    alignment: str | list[tuple[str, float]] | None = Field(default=None, description="a text, several, or None")
    config: str | None = Field(default=None, description="the path of a TOML file, or None")
    host: str = Field(default="127.0.0.1", min_length=1, description="an address or a host's name")
    port: int = Field(default=8000, ge=0, le=65535, description="a whole number from 0 to 65535")
    api_keys: tuple[SecretStr, ...] = Field(default=(), description="a list of keys")

    def to_env(self) -> dict[str, str]:
        """The environment variable that carries it; the keys are in it, as vLLM's own are in VLLM_API_KEY."""
        told = {name: value for name, value in self if name != "api_keys"}
        return {VARIABLE: json.dumps({**told, "api_keys": [key.get_secret_value() for key in self.api_keys]})}

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """What the environment variable carries.

        Args:
            environ: None means this process's own.

        Raises:
            ConfigError: there is none, or it is not what `to_env` wrote.
        """
        try:
            values = _VALUES.validate_json((os.environ if environ is None else environ).get(VARIABLE, ""))
        except ValidationError as error:
            raise ConfigError(
                f"{VARIABLE} holds no settings: SDA's part of vLLM's server is started by `sda vllm MODEL`, which "
                f"sets it."
            ) from error
        values["api_keys"] = tuple(SecretStr(str(key)) for key in _listed(values.get("api_keys")))
        if isinstance(several := values.get("alignment"), list):
            values["alignment"] = [tuple(one) if isinstance(one, list) else one for one in several]
        return cls.of_values(values)

    def server_settings(self) -> ServerSettings:
        """Who may ask, and by what is answered where a request does not say.

        Raises:
            ConfigError: the file cannot be read, or a value is unknown or out of range.
        """
        from sda_integrations.server.reading import read_settings  # here, since it imports the engine

        given = {name: getattr(self, name) for name in ("served_model_name", "host", "port", "api_keys")}
        if self.alignment is not None:
            given["alignment"] = self.alignment
        return read_settings(None if self.config is None else Path(self.config), given).server


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []
