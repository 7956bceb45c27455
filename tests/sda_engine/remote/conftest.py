"""The scripted server, for tests of what a client makes of it."""

from tests.sda_engine.remote.scripted import http, server

__all__ = ["http", "server"]
