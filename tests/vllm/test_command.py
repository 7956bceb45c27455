"""What `sda vllm` needs of the real vLLM, and that it starts its server."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from sda_engine.errors import ConfigError
from sda_integrations.vllm import serving
from sda_integrations.vllm.handed_over import HandedOver
from sda_integrations.vllm.hooks import SURFACE
from sda_integrations.vllm.serving import prepare
from sda_integrations.vllm.surface import check_surface

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [str(ROOT / ".venv" / "bin" / "python"), "-c", "from sda_engine.cli import main; main()", "vllm"]
START_SECONDS = 300  # on a busy machine; alone it takes forty


@pytest.fixture
def served(monkeypatch):
    """Gives vLLM's arguments as the server would be started with them."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    for name in (serving.KV_SPACE, "VLLM_API_KEY"):
        os.environ.pop(name, None)

    def serve(*arguments):
        os.environ.update(HandedOver(model="some/model", served_model_name="mine").to_env())
        return prepare(["some/model", *arguments])[0]

    return serve


def test_the_tested_vllm_has_all_that_is_used_of_it():
    assert check_surface() == []
    assert all(hook.why and " " in hook.why for hook in SURFACE)


def test_vllms_own_parser_takes_what_is_added(served):
    args = served("--port", "1234", "--tensor_parallel_size", "2", "--enable-lora")
    assert (args.model_tag, args.port, args.host) == ("some/model", 1234, "127.0.0.1")
    assert args.served_model_name == ["mine"]
    assert (args.tensor_parallel_size, args.enable_lora) == (2, True)
    assert args.scheduler_cls == serving.SCHEDULERS[False]
    assert args.async_scheduling is False
    assert args.logits_processors == ["sda_integrations.vllm.processor:SteeringProcessor"]
    assert args.middleware == ["sda_integrations.vllm.middleware.SDAMiddleware"]
    assert (args.logprobs_mode, args.max_logprobs) == ("processed_logprobs", 128)
    assert args.structured_outputs_config.backend == "guidance"
    assert int(os.environ[serving.KV_SPACE]) >= 1


def test_nothing_is_said_twice_where_the_user_says_it(served, caplog):
    served("--port", "1234", "--host", "::1", "--dtype", "bfloat16", "--max-logprobs", "200")
    assert "duplicate" not in caplog.text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--speculative-conf", '{"method": "ngram"}'], "--speculative-config"),
        (["--pipeline-parallel", "2"], "--pipeline-parallel-size 2"),
        (["--scheduling-pol", "priority"], "--scheduling-policy priority"),
        (["--no-enable-chunked"], "--no-enable-chunked-prefill"),
        (["--structured-outputs-c", '{"backend": "xgrammar"}'], "--structured-outputs-config"),
        (["--scheduler-c", "mine.Scheduler"], "--scheduler-cls mine.Scheduler"),
        (["--logits-proc", "mine:Processor"], "--logits-processors"),
        (["--max-logp", "20"], None),
        (["--max-logp", "5"], "--max-logprobs 5"),
        (["--kv-offloading-s", "2"], "--kv-offloading-size 2"),
        (["--enable-batch-sh"], "--enable-batch-sharded-sampling"),
    ],
)
def test_vllm_takes_abbreviations_and_they_are_refused_alike(served, arguments, named):
    if named is None:  # as vLLM's default, which nobody can tell from nothing
        assert served(*arguments).max_logprobs == 128
        return
    with pytest.raises(ConfigError, match=f"^vLLM's {named}"):
        served(*arguments)


@pytest.mark.skipif(not Path(COMMAND[0]).exists(), reason="needs the environment of make setup")
@pytest.mark.timeout(START_SECONDS + 60)
def test_the_command_starts_a_server_that_chats_and_ends_when_it_is_told_to(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    small = ["--port", str(port), "--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "4"]
    environ = {**os.environ, "SDA_VLLM_PYTHON": sys.executable, "VLLM_CPU_KVCACHE_SPACE": "1", "SDA_API_KEY": "s3cret"}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [*COMMAND, "smollm2-135m", *small],
            env=environ,
            stdout=log,
            stderr=log,
            cwd=tmp_path,
            start_new_session=True,
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", server, tmp_path / "log")
        _check_chats(f"http://127.0.0.1:{port}/v1")
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)
        assert _left_of(server.pid) == []
    finally:
        for process in _left_of(server.pid):
            process.kill()
    assert "s3cret" not in (tmp_path / "log").read_text()


def _wait_for(url, server, log):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-4000:]
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    pytest.fail(log.read_text()[-4000:])


def _left_of(group, seconds=30):
    """The processes of a group that still run, after a while in which they may end."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        left = [process for process in psutil.process_iter() if _runs_in(process, group)]
        if not left:
            return []
        time.sleep(0.2)
    return left


def _runs_in(process, group):
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ProcessLookupError):
        return False


def _check_chats(url):
    asked = {
        "model": "smollm2-135m",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 4,
        "temperature": 0,
    }
    assert httpx.post(f"{url}/chat/completions", json=asked, timeout=60).status_code == 401
    keyed = {"Authorization": "Bearer s3cret"}
    done = httpx.post(f"{url}/chat/completions", json=asked, headers=keyed, timeout=60)
    assert done.status_code == 200, done.text
    assert done.json()["choices"][0]["message"]["content"], json.dumps(done.json())
