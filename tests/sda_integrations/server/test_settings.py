import pytest

from sda_engine.alignment import PRESETS, Alignment
from sda_engine.config import Steering
from sda_engine.errors import ConfigError
from sda_integrations.server import EvaluatorSettings, ServerLimits, ServerSettings


def test_a_server_listens_to_this_machine_alone_and_steers_by_nothing_unless_told():
    settings = ServerSettings()
    assert (settings.host, settings.port, settings.api_keys, settings.cors_origins) == ("127.0.0.1", 8000, (), ())
    assert settings.default_alignment() is None
    assert settings.shutdown_seconds == 30


def test_no_key_shows_in_the_settings_or_in_an_error_about_one():
    settings = ServerSettings(api_keys=["s3cret-key"], evaluators={"judge": EvaluatorSettings(spec="x", api_key="k3y")})
    assert "s3cret" not in repr(settings)
    assert "k3y" not in repr(settings)
    with pytest.raises(ConfigError, match="no client could send") as refused:
        ServerSettings(api_keys=["good", "s3cret with blanks"])
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("key", ["", "two words", "a\nb", "schlüssel"])
def test_a_key_that_no_header_can_hold_is_refused(key):
    with pytest.raises(ConfigError, match="no client could send"):
        ServerSettings(api_keys=(key,))


def test_an_alignment_of_the_server_is_found_by_its_name_and_called_by_it():
    settings = ServerSettings(alignments={"house": "Answer as a librarian."}, alignment="house")
    assert settings.default_alignment() == Alignment(instruction="Answer as a librarian.", name="house")


def test_alignments_may_be_texts_objects_and_weights():
    given = {
        "plain": "Use plain words.",
        "kind": {"instruction": "Be kind.", "avoid": "Cold words."},
        "both": {"honesty": 1.0, "empathy": 0.5},
    }
    settings = ServerSettings(alignments=given, alignment=[["plain", 1.0], ["honesty", 2.0]])
    assert settings.alignments["kind"].avoid == "Cold words."
    assert settings.alignments["both"].name == "honesty+empathy"
    assert settings.default_alignment().name == "plain+honesty"


@pytest.mark.parametrize("name", ["with:colon", "with blank", "", "-dash"])
def test_a_name_that_would_not_make_an_alias_is_refused(name):
    with pytest.raises(ConfigError, match="alignments cannot have the name"):
        ServerSettings(alignments={name: "Be kind."})


def test_no_alignment_of_the_server_hides_a_preset():
    with pytest.raises(ConfigError, match="preset's name"):
        ServerSettings(alignments={next(iter(PRESETS)): "Be kind."})


def test_an_alignment_that_is_none_is_refused_when_the_settings_are_made():
    with pytest.raises(ConfigError, match="alignment"):
        ServerSettings(alignment=7)


@pytest.mark.parametrize("name", ["fixed", "contrastive:mine", "with blank"])
def test_no_evaluator_of_the_server_is_named_like_those_that_anybody_may_ask_for(name):
    with pytest.raises(ConfigError, match="evaluators cannot have the name"):
        ServerSettings(evaluators={name: "openai:gpt-4.1"})


def test_what_is_no_evaluator_is_refused_by_its_name():
    with pytest.raises(ConfigError, match=r"evaluators\['judge'\]"):
        ServerSettings(evaluators={"judge": 7})


def test_errors_name_the_setting_and_what_it_must_be():
    with pytest.raises(ConfigError, match=r"ServerSettings\.port cannot be 70000: it must be a whole number from 0"):
        ServerSettings(port=70_000)
    with pytest.raises(ConfigError, match=r"ServerLimits\.n cannot be 0: it must be a whole number of at least 1"):
        ServerLimits(n=0)
    with pytest.raises(ConfigError, match=r"ServerSettings has no field 'api_key'\. Did you mean 'api_keys'"):
        ServerSettings(api_key="x")
    with pytest.raises(ConfigError, match="served_model_name"):
        ServerSettings(served_model_name="a:b")


@pytest.mark.parametrize(
    "origin", ["https://example.org/", "example.org", "https://Example.org", "HTTPS://example.org", "https://*", ""]
)
def test_an_origin_that_no_browser_sends_is_refused(origin):
    with pytest.raises(ConfigError, match=r"cors_origins cannot have .*in lower case and without"):
        ServerSettings(cors_origins=["https://example.org", origin])


def test_origins_have_a_scheme_a_host_and_maybe_a_port():
    origins = ("*", "https://example.org", "http://[::1]:3000", "chrome-extension://abc")
    assert ServerSettings(cors_origins=list(origins)).cors_origins == origins
    assert ServerSettings(cors_origins="*").cors_origins == ("*",)


def test_steering_and_sampling_are_settings_of_their_own():
    assert ServerSettings(steering=Steering(gain=3.0)).steering.gain == 3.0
    with pytest.raises(ConfigError, match=r"ServerSettings\.steering cannot be 3"):
        ServerSettings(steering=3.0)
