"""What the command tells the server travels in one environment variable."""

import json

import pytest
from pydantic import SecretStr

from sda_engine.errors import ConfigError
from sda_integrations.vllm.handed_over import VARIABLE, HandedOver


def handed_over(**settings):
    return HandedOver(model="/models/some", served_model_name="some", **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"alignment": "honesty", "host": "0.0.0.0", "port": 0},  # noqa: S104
        {"alignment": [("honesty", 2.0), ("Be kind: always.", 1.0)]},
        {"api_keys": (SecretStr("k1"), SecretStr("k2")), "config": "/etc/sda.toml"},
    ],
)
def test_it_comes_back_as_it_was(settings):
    there = handed_over(**settings)
    assert HandedOver.from_env(there.to_env()) == there


def test_keys_are_in_the_variable_and_nowhere_else():
    there = handed_over(api_keys=(SecretStr("s3cret"),))
    assert json.loads(there.to_env()[VARIABLE])["api_keys"] == ["s3cret"]
    assert "s3cret" not in repr(there)
    assert [key.get_secret_value() for key in there.server_settings().api_keys] == ["s3cret"]


@pytest.mark.parametrize("environ", [{}, {VARIABLE: ""}, {VARIABLE: "[1]"}, {VARIABLE: "no JSON"}])
def test_a_server_that_the_command_did_not_start_says_so(environ):
    with pytest.raises(ConfigError, match=r"holds no settings.*`sda vllm MODEL`"):
        HandedOver.from_env(environ)


def test_a_value_of_another_kind_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"HandedOver\.port cannot be 'http'"):
        HandedOver.from_env({VARIABLE: json.dumps({"model": "m", "served_model_name": "m", "port": "http"})})


def test_the_servers_settings_are_the_files_with_what_was_given_over_them(tmp_path):
    file = tmp_path / "sda.toml"
    file.write_text('alignment = "empathy"\n[alignments]\npolite = "Be polite."\n[steering]\ngain = 1.5\n')
    settings = handed_over(config=str(file)).server_settings()
    assert settings.default_alignment().name == "empathy"
    assert (settings.steering.gain, settings.served_model_name) == (1.5, "some")
    over = handed_over(config=str(file), alignment="polite").server_settings()
    assert over.default_alignment().instruction == "Be polite."
