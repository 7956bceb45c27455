"""`sda serve`: loads a model and serves it until it is told to end."""

import ipaddress
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields

from rich.text import Text

from sda_engine.cli.requests import combined, quieten_transformers
from sda_engine.cli.terminal import error_console, tell
from sda_engine.engine import SteeringEngine
from sda_integrations.server.app import make_app
from sda_integrations.server.options import ServeOptions
from sda_integrations.server.reading import ServeSettings, read_settings
from sda_integrations.server.service import Service
from sda_integrations.server.serving import bind, make_server, url_of

_NAMES = {"api_key": "api_keys", "cors_origin": "cors_origins"}  # options that can be given several times, and settings
_APART = ("config", "evaluator_url")
_LOGGERS = ("sda_integrations.server", "uvicorn")


def run(model: str | None, options: ServeOptions, *, debug: bool = False) -> None:
    """Serve a model.

    Args:
        model: alias, path or Hub id; None means the file's, or the default.
        options: of the command.
        debug: whether somebody else shows all log messages.

    Raises:
        ConfigError: settings are out of range, or the address cannot be had.
        ModelLoadError: the model cannot be loaded.
    """
    settings = read_settings(options.config, _given(model, options), options.evaluator_url)
    bound = bind(settings.server.host, settings.server.port)  # before the model is loaded, which takes longer
    with bound, _loaded(settings) as engine, _logging(debug=debug):
        app = make_app(engine, settings.server)
        make_server(app, lambda: _announce(app.state.service, bound)).run(sockets=[bound])


def _given(model: str | None, options: ServeOptions) -> dict[str, object]:
    """The options that were given, by the names of settings."""
    given = {field.name: getattr(options, field.name) for field in fields(options) if field.name not in _APART}
    given["model"] = model
    if options.alignment:
        given["alignment"] = combined(options.alignment)
    return {_NAMES.get(name, name): value for name, value in given.items() if value not in (None, [])}


@contextmanager
def _loaded(settings: ServeSettings) -> Iterator[SteeringEngine]:
    quieten_transformers()
    wanted = settings.model
    with error_console().status(f"Loading {wanted.model} ..."):
        engine = SteeringEngine.load(
            wanted.model,
            revision=wanted.revision,
            device=wanted.device,
            dtype=wanted.dtype,
            device_map=wanted.device_map,
            quantization_config=wanted.quantization_config,
            adapters=wanted.adapters,
            settings=settings.engine,
        )
    with engine:
        yield engine


@contextmanager
def _logging(*, debug: bool) -> Iterator[None]:
    """Log what the server does on standard error, a line each; its own only, unless somebody shows all already."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    loggers = [] if debug else [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger, logger.level) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.WARNING if logger.name == "uvicorn" else logging.INFO)
    try:
        yield
    finally:
        for logger, level in before:
            logger.removeHandler(handler)
            logger.setLevel(level)


def _announce(service: Service, bound: socket.socket) -> None:
    """Tell where the server listens, what it serves, and what is unsafe about it."""
    console, url = error_console(), url_of(bound)
    alignment = service.defaults.settings.alignment
    steered = "plain answers by default" if alignment is None else f"alignment {alignment.name} by default"
    line = f"Serving {service.models.name} at {url}/v1, {steered}. A page to try it: {url}/"
    tell(console, Text(line, style="bold"))
    if not service.keys.needed and not _is_loopback(bound):
        tell(
            console,
            Text.assemble(
                ("Warning: ", "bold red"),
                f"whoever can reach {url} can use this server, and it has no key. Set SDA_API_KEY, or listen at "
                f"127.0.0.1.",
            ),
        )


def _is_loopback(bound: socket.socket) -> bool:
    """Whether only this machine can reach a socket."""
    return ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback
