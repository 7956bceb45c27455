"""What is added to vLLM's arguments, for a parser that knows what vLLM's does of them."""

import json
import os
from argparse import ArgumentParser, BooleanOptionalAction, Namespace

import pytest
from pydantic import SecretStr

from sda_engine.errors import ConfigError
from sda_integrations.vllm import serving
from sda_integrations.vllm.handed_over import HandedOver
from sda_integrations.vllm.serving import KV_SPACE, is_asynchronous, limit_memory, prepare


def parse(arguments):
    parser = ArgumentParser()
    parser.add_argument("model")
    for flag in ("--scheduler-cls", "--served-model-name", "--host", "--dtype", "--logprobs-mode", "--uds"):
        parser.add_argument(flag)
    for flag in ("--structured-outputs-config", "--speculative-config", "--allowed-origins"):
        parser.add_argument(flag, type=json.loads)
    for flag, default in {"--port": 8000, "--max-logprobs": 20, "--kv-cache-memory-bytes": None}.items():
        parser.add_argument(flag, type=int, default=default)
    parser.add_argument("--gpu-memory-utilization", type=float, default=0.92)
    parser.add_argument("--async-scheduling", action=BooleanOptionalAction)
    parser.add_argument("--distributed-executor-backend")
    parser.add_argument("--data-parallel-backend", default="mp")
    parser.add_argument("--logits-processors", nargs="+")
    parser.add_argument("--api-key", nargs="+")
    parser.add_argument("--middleware", action="append", default=[])
    return parser.parse_args(arguments)


@pytest.fixture
def served(monkeypatch):
    """Gives what vLLM is started with, for its arguments and what the command handed over."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    for name in (KV_SPACE, "VLLM_API_KEY", "VLLM_USE_RUST_FRONTEND"):
        os.environ.pop(name, None)
    monkeypatch.setattr(serving, "demand_surface", lambda: None)
    monkeypatch.setattr(serving, "_vllm", lambda: (parse, lambda args: None))
    monkeypatch.setattr(serving, "_dtype_on_cpu", lambda: ["--dtype", "float32"])

    def serve(*arguments, on_cpu=True, **told):
        monkeypatch.setattr(serving, "_is_on_cpu", lambda: on_cpu)
        os.environ.update(HandedOver(model="m", served_model_name="mine", **told).to_env())
        return prepare(["m", *arguments])[0]

    return serve


def test_what_steers_is_named_by_its_path(served):
    args = served()
    assert args.scheduler_cls == "sda_integrations.vllm.scheduler.SyncGroupScheduler"
    assert args.logits_processors == ["sda_integrations.vllm.processor:SteeringProcessor"]
    assert args.middleware == ["sda_integrations.vllm.middleware.SDAMiddleware"]
    assert (args.logprobs_mode, args.max_logprobs) == ("processed_logprobs", 128)
    assert args.structured_outputs_config == {"backend": "guidance"}


def test_the_server_listens_at_this_machine_alone_unless_it_is_told_otherwise(served):
    args = served()
    assert (args.served_model_name, args.host, args.port, args.allowed_origins) == ("mine", "127.0.0.1", 8000, None)
    args = served("--host", "::1", "--port", "9", "--max-logprobs", "500", "--middleware", "theirs.First")
    assert (args.host, args.port, args.max_logprobs) == ("::1", 9, 500)
    assert args.middleware[0] == "theirs.First"


def test_what_vllm_understood_is_what_the_middleware_is_told(served):
    served("--port", "9", "--host", "localhost", "--api-key", "theirs")
    told = HandedOver.from_env(os.environ)
    assert (told.host, told.port) == ("localhost", 9)
    assert [key.get_secret_value() for key in told.api_keys] == ["theirs"]


@pytest.mark.parametrize(
    ("given", "variable", "ours", "keys"),
    [
        (["--api-key", "a", "b"], "c", "d", ["a", "b"]),
        ([], "c", "d", ["c"]),
        ([], None, "d", ["d"]),
        ([], None, None, None),
    ],
)
def test_both_parts_of_the_server_ask_for_the_same_keys(served, given, variable, ours, keys):
    if variable:
        os.environ["VLLM_API_KEY"] = variable
    args = served(*given, api_keys=(SecretStr(ours),) if ours else ())
    assert args.api_key == keys
    assert [key.get_secret_value() for key in HandedOver.from_env(os.environ).api_keys] == (keys or [])


def test_origins_of_the_file_hold_for_both_parts(served, tmp_path):
    (tmp_path / "sda.toml").write_text('cors_origins = ["https://example.org"]')
    assert served(config=str(tmp_path / "sda.toml")).allowed_origins == ["https://example.org"]


@pytest.mark.parametrize(
    ("arguments", "warned"),
    [
        ([], False),
        (["--host", "0.0.0.0"], True),  # noqa: S104 - what is warned of
        (["--host", "example.org"], True),
        (["--host", "0.0.0.0", "--api-key", "k"], False),  # noqa: S104
        (["--host", "0.0.0.0", "--uds", "/run/vllm"], False),  # noqa: S104
    ],
)
def test_a_server_for_the_network_without_a_key_is_warned_of(served, capsys, arguments, warned):
    served(*arguments)
    assert ("Warning: whoever can reach" in capsys.readouterr().err) is warned


def test_an_abbreviated_argument_is_refused_too(served):
    with pytest.raises(ConfigError, match="--speculative-config"):
        served("--spec", "{}")


def test_the_front_end_that_has_no_middleware_is_refused(served):
    os.environ["VLLM_USE_RUST_FRONTEND"] = "1"
    with pytest.raises(ConfigError, match=r"VLLM_USE_RUST_FRONTEND cannot be set.*Unset it"):
        served()


@pytest.mark.parametrize(
    ("given", "asynchronous"),
    [
        ([], True),
        (["--async-scheduling"], True),
        (["--no-async-scheduling"], False),
        (["--distributed-executor-backend", "mp"], True),
        (["--distributed-executor-backend", "ray"], False),
        (["--data-parallel-backend", "ray"], False),
        (["--distributed-executor-backend", "ray", "--async-scheduling"], True),
    ],
)
def test_the_scheduler_is_the_one_for_how_steps_are_scheduled(served, given, asynchronous):
    """Said outright, so that vLLM does so or does not start."""
    args = served(*given, on_cpu=False)
    assert args.async_scheduling is asynchronous
    assert args.scheduler_cls.endswith(".AsyncGroupScheduler" if asynchronous else ".SyncGroupScheduler")


def test_on_a_cpu_steps_are_never_scheduled_ahead_whatever_is_asked_for():
    """vLLM takes it back there after all checks, and would run the wrong scheduler."""
    assert not is_asynchronous(parse(["m", "--async-scheduling"]), on_cpu=True)


def test_a_cpu_gets_its_dtype_and_its_share_of_memory_unless_it_is_told(served, monkeypatch):
    monkeypatch.setattr("sda_engine.models.available_memory", lambda: 9 * 2**30)
    assert served().dtype == "float32"
    assert os.environ[KV_SPACE] == "2"
    assert served("--dtype", "bfloat16").dtype == "bfloat16"
    del os.environ[KV_SPACE]
    assert served(on_cpu=False).dtype is None
    assert KV_SPACE not in os.environ


@pytest.mark.parametrize(("free", "taken"), [(1, "1"), (9, "2"), (100, "4")])
def test_keys_and_values_take_a_quarter_of_what_is_free_from_one_to_four(served, monkeypatch, free, taken):
    monkeypatch.setattr("sda_engine.models.available_memory", lambda: free * 2**30)
    served()
    assert os.environ[KV_SPACE] == taken


@pytest.mark.parametrize("given", [["--kv-cache-memory-bytes", "5"], ["--gpu-memory-utilization", "0.1"]])
def test_memory_that_the_user_has_shared_out_is_left_so(served, given):
    served(*given)
    assert KV_SPACE not in os.environ
    os.environ[KV_SPACE] = "7"
    limit_memory(Namespace(), Namespace())
    assert os.environ[KV_SPACE] == "7"


def test_what_is_wrong_ends_the_server_in_one_line(monkeypatch, capsys):
    def lacking():
        raise ImportError("This vLLM is none that SDA can run in")

    monkeypatch.setattr(serving, "demand_surface", lacking)
    with pytest.raises(SystemExit) as end:
        serving.main()
    assert end.value.code == 2
    assert capsys.readouterr().err == "Error: This vLLM is none that SDA can run in\n"
