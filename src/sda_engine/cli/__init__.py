"""The `sda` command."""

from sda_engine.cli.app import COMMAND_GROUP, main, make_app

__all__ = ["COMMAND_GROUP", "main", "make_app"]
