"""Fixtures for the tests of the server: scripted ones, and clients of them without a socket."""

import httpx
import pytest

from sda_engine.testing import ScriptedEngine
from sda_integrations.server import ServerSettings, make_app


@pytest.fixture(scope="package")
def scripted():
    """An engine that answers every request alike."""
    with ScriptedEngine("A short answer.") as engine:
        yield engine


@pytest.fixture
def client_of(scripted):
    """A client of a server with these settings; it calls the application without a socket."""

    def make(engine=None, **settings):
        app = make_app(scripted if engine is None else engine, ServerSettings(**settings))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://server")

    return make
