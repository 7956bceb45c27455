"""What the tests of `sda vllm` share: the command, in a folder and an environment where there is no vLLM."""

import os
import sys

import pytest
import typer
from typer.testing import CliRunner

from sda_engine.cli.app import add_command
from sda_integrations.vllm.command import vllm


class Replaced(Exception):  # noqa: N818 - it is no error
    """Raised in place of becoming another program."""

    def __init__(self, command, environ):
        super().__init__(command[0])
        self.command, self.environ = command, environ


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """There is no vLLM but what a test makes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SDA_VLLM_PYTHON", raising=False)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "own"))
    return tmp_path


@pytest.fixture
def run(nowhere, monkeypatch):
    """Runs the command; what it would have become is the exception of the result."""

    def become(path, command, environ):
        raise Replaced(command, environ)

    monkeypatch.setattr(os, "execve", become)
    app = typer.Typer()
    app.callback()(lambda: None)
    add_command(app, "vllm", vllm)

    def invoke(*arguments, env=None):
        return CliRunner().invoke(app, ["vllm", *map(str, arguments)], env={"SDA_API_KEY": None, **(env or {})})

    return invoke
