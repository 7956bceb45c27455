"""Adapters over a server: what they are given for it, and what belongs to the server alone."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import SecretStr

from sda_engine.adapting.engine_protocol import Engine
from sda_engine.errors import ConfigError

if TYPE_CHECKING:
    from sda_engine.remote import RemoteEngine


def make_remote_engine(
    base_url: str,
    model: str,
    *,
    api_key: str | SecretStr | None = None,
    max_retries: int | None = None,
    trace: bool = False,
) -> "RemoteEngine":
    """An engine behind a server. Nothing is asked of it yet. Arguments are those of RemoteEngine; None its default.

    Raises:
        ConfigError: an argument is out of range.
    """
    from sda_engine.remote import RemoteEngine  # it brings the OpenAI SDK, a second of imports

    if max_retries is None:
        return RemoteEngine(base_url, model=model, api_key=api_key, trace=trace)
    return RemoteEngine(base_url, model=model, api_key=api_key, max_retries=max_retries, trace=trace)


def refuse_loading(owner: str, base_url: str, given: Iterable[str]) -> None:
    """Refuse settings that say how to load a model, beside the address of a server that has loaded it.

    Args:
        owner: the adapter's model, for the error.
        base_url: the server's address.
        given: the names of such settings that were given.

    Raises:
        ConfigError: there are any.
    """
    for name in given:
        raise ConfigError(
            f"{owner}.{name} says how to load a model, and base_url={base_url!r} names a server that has loaded it: "
            f"give {name} to the server (`sda serve`), or leave out base_url.",
            field=name,
        )


def server_of(engine: Engine | None) -> str | None:
    """The address of the server that an engine asks; None for one in this process."""
    url = None if engine is None else engine.describe().get("base_url")
    return url if isinstance(url, str) else None


def other_model(engine: Engine, model: str) -> Engine | None:
    """The engine for another model of the same server; None for an engine that asks no server."""
    if server_of(engine) is None:
        return None
    from sda_engine.remote import RemoteEngine  # which is imported by now

    return engine.for_model(model) if isinstance(engine, RemoteEngine) else None
