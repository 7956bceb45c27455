import importlib.util
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from sda_engine.testing import tiny_engine
from sda_integrations.server.command import serve
from sda_integrations.server.serving import GracefulServer

IMPORTS = """
import sys
import sda_integrations.server.command
heavy = {"torch", "transformers", "pydantic", "fastapi", "uvicorn", "prometheus_client"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.fixture
def run(monkeypatch, loads):
    """Runs the command; the server only tells that it listens, and what it was made of is returned."""
    served = []

    def end_at_once(server, sockets):
        server._on_listening()
        served.append((server.config.app.state.service, sockets[0].getsockname()))

    monkeypatch.setattr(GracefulServer, "run", end_at_once)
    monkeypatch.setattr("sda_engine.engine.SteeringEngine.load", load_tiny(loads))
    app = typer.Typer()
    app.command()(serve)

    def invoke(*arguments, env=None):
        return CliRunner().invoke(app, ["--port", "0", *arguments], env={"SDA_API_KEY": None, **(env or {})}), served

    return invoke


def load_tiny(requests):
    def load(model, **settings):
        requests.append((model, settings))
        return tiny_engine()

    return load


def test_options_become_settings(run, loads):
    done, served = run(
        *("some/model", "--device", "cpu", "--dtype", "float32", "--served-model-name", "mine"),
        *("--alignment", "honesty:2", "--alignment", "empathy", "--evaluator", "openai:judge"),
        *("--evaluator-url", "http://judge:8000/v1", "--api-key", "k1", "--api-key", "k2"),
        *("--cors-origin", "https://example.org", "--shutdown-seconds", "5"),
    )
    assert done.exit_code == 0, done.output
    (service, _), (model, loaded) = served[0], loads[0]
    assert (model, loaded["device"], loaded["dtype"]) == ("some/model", "cpu", "float32")
    assert service.models.name == "mine"
    assert service.defaults.settings.alignment.weights == pytest.approx((2 / 3, 1 / 3))
    assert service.defaults.settings.steering.evaluator is service.evaluators.get("openai:judge")
    assert [key.get_secret_value() for key in service.settings.api_keys] == ["k1", "k2"]
    assert service.settings.cors_origins == ("https://example.org",)
    assert service.settings.shutdown_seconds == 5


def test_the_first_line_tells_where_it_listens_and_what_it_serves(run):
    done, served = run("--alignment", "honesty")
    port = served[0][1][1]
    assert done.stderr.splitlines()[0] == (
        f"Serving tiny-llama at http://127.0.0.1:{port}/v1, alignment honesty by default. "
        f"A page to try it: http://127.0.0.1:{port}/"
    )
    assert "plain answers by default" in run()[0].stderr


def test_the_engine_is_closed_at_the_end(run):
    _, served = run()
    assert served[0][0].engine.closed


@pytest.mark.parametrize(
    ("host", "key", "warned"),
    [("0.0.0.0", None, True), ("0.0.0.0", "k", False), ("127.0.0.1", None, False)],  # noqa: S104 - what is warned of
)
def test_a_server_for_the_network_without_a_key_is_warned_of(run, host, key, warned):
    done, _ = run("--host", host, env={"SDA_API_KEY": key})
    assert ("Warning: " in done.stderr) is warned
    assert ("has no key. Set SDA_API_KEY" in done.stderr) is warned


def test_keys_come_from_the_environment_and_are_never_shown(run):
    done, served = run(env={"SDA_API_KEY": "s3cret-1 s3cret-2"})
    assert len(served[0][0].settings.api_keys) == 2
    assert run(env={"SDA_API_KEY": ""})[1][1][0].settings.api_keys == ()
    assert "s3cret" not in done.output
    assert "s3cret" not in run("--help", env={"SDA_API_KEY": "s3cret"})[0].output


def test_a_wrong_option_is_one_line_and_loads_nothing(run, loads):
    done, _ = run("--shutdown-seconds", "-1")
    assert done.exit_code == 2
    assert "ServerSettings.shutdown_seconds cannot be -1" in done.stderr
    assert "Traceback" not in done.stderr
    assert not loads


def test_a_missing_extra_is_named(run, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "fastapi" else find(name))
    done, _ = run()
    assert done.exit_code == 2
    assert "needs fastapi, which is not installed" in done.stderr
    assert "sda-integrations[server]" in done.stderr


def test_the_names_of_the_package_need_the_extra_too(monkeypatch):
    for module in ("fastapi", "sda_integrations.server.app"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "sda_integrations.server.app")
    import sda_integrations.server as server

    with pytest.raises(ImportError, match=r"needs fastapi.*sda-integrations\[server\]"):
        _ = server.make_app


def test_the_command_can_be_listed_without_importing_what_it_runs():
    done = subprocess.run([sys.executable, "-c", IMPORTS], stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr
