"""The scripted server, for tests of what a client makes of it."""

from tests.sda_engine.remote.scripted import blind, http, server

__all__ = ["blind", "http", "server"]
