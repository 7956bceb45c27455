import traceback

import pytest

from sda_engine.choosing import Revision
from sda_engine.errors import ConfigError
from sda_integrations.server import EvaluatorSettings
from sda_integrations.server.reading import MAX_REQUESTS, read_settings

FILE = """
model = "some/model"
dtype = "float32"
port = 9000
api_keys = ["from-the-file"]
alignment = "house"
evaluator = "judge"

[adapters]
legal = "/adapters/legal"

[alignments]
house = "Answer as a librarian."
kind = {instruction = "Be kind.", avoid = "Cold words."}

[evaluators]
sharp = "contrastive:sharpness=8"
judge = {spec = "openai:gpt-4.1", url = "http://judge:8000/v1"}

[steering]
gain = 3
critical_categories = ["numbers"]
temperature_schedule = "critical_tokens"
revisions = [{sees = "answer", factor = 0.5}]

[sampling]
temperature = 0
stop = ["END"]

[limits]
n = 4

[engine]
max_rows = 32
"""


@pytest.fixture
def written(tmp_path):
    """A file with this text."""

    def write(text):
        file = tmp_path / "serve.toml"
        file.write_text(text, encoding="utf-8")
        return file

    return write


def test_a_file_says_everything_by_the_names_of_the_settings(written):
    read = read_settings(written(FILE), {})
    assert (read.model.model, read.model.dtype, read.model.adapters) == (
        "some/model",
        "float32",
        {"legal": "/adapters/legal"},
    )
    assert (read.engine.max_rows, read.engine.max_requests) == (32, MAX_REQUESTS)
    server = read.server
    assert (server.port, server.api_keys[0].get_secret_value(), server.evaluator) == (9000, "from-the-file", "judge")
    assert server.default_alignment().instruction == "Answer as a librarian."
    assert server.alignments["kind"].avoid == "Cold words."
    assert server.evaluators["sharp"] == "contrastive:sharpness=8"
    assert server.evaluators["judge"] == EvaluatorSettings(spec="openai:gpt-4.1", url="http://judge:8000/v1")
    assert (server.steering.gain, server.steering.critical_categories) == (3.0, ("numbers",))
    assert server.steering.revisions == (Revision(sees="answer", factor=0.5),)
    assert (server.sampling.temperature, server.sampling.stop, server.limits.n) == (0.0, ("END",), 4)


def test_options_come_before_the_file(written):
    read = read_settings(written(FILE), {"port": 1234, "model": "other", "alignment": "honesty"})
    assert (read.server.port, read.model.model, read.model.dtype) == (1234, "other", "float32")
    assert read.server.default_alignment().name == "honesty"


def test_without_a_file_and_options_everything_is_the_default():
    read = read_settings(None, {})
    assert (read.model.model, read.server.port, read.engine.max_requests) == ("smollm2-135m", 8000, MAX_REQUESTS)


def test_the_address_of_a_judge_goes_with_the_spec_that_names_it():
    read = read_settings(None, {"evaluator": "openai:judge"}, "http://judge:8000/v1")
    assert read.server.evaluators == {
        "openai:judge": EvaluatorSettings(spec="openai:judge", url="http://judge:8000/v1")
    }
    with pytest.raises(ConfigError, match="--evaluator-url needs"):
        read_settings(None, {"evaluator": "contrastive"}, "http://judge:8000/v1")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prot = 1", r"serve\.toml has no key 'prot'. Did you mean 'port'"),
        ("[limits]\nmessage = 1", r"\[limits\]: ServerLimits has no field 'message'. Did you mean 'messages'"),
        ("[steering]\ngian = 1", r"\[steering\]: Steering has no field 'gian'. Did you mean 'gain'"),
        ("[steering]\nrevisions = [{sees = 'all'}]", r"\[steering.revisions\]: Revision.sees"),
        ("[steering]\nevaluator = 'judge'", r"\[steering\] has 'evaluator', which stands above all tables"),
        ("[sampling]\ntemperature = -1", r"\[sampling\]: Sampling.temperature cannot be -1"),
        ("[engine]\nmax_row = 3", r"\[engine\]: EngineSettings has no field 'max_row'"),
        ("[evaluators.judge]\nspec = 'x'\nulr = 'x'", r"\[evaluators.judge\]: EvaluatorSettings has no field 'ulr'"),
        ("[alignments.kind]\ninstrution = 'Be kind.'", r"alignments\['kind'\]: Alignment has no field 'instrution'"),
        ("limits = 7", r"'limits' is a single value .*: it must be a table, \[limits\]"),
        ("[[evaluators]]\nspec = 'x'", r"'evaluators' is a list .*: it must be a table, \[evaluators\]"),
        ("port = '8000'", r"ServerSettings\.port cannot be '8000'"),
        ("port = ", "is no TOML file"),
    ],
)
def test_errors_name_the_table_the_key_and_what_is_legal(written, text, told):
    with pytest.raises(ConfigError, match=told):
        read_settings(written(text), {})


@pytest.mark.parametrize(
    "text",
    [
        "api_keys = {ours = 's3cret'}",
        "api_keys = [['s3cret']]",
        "[[evaluators]]\nspec = 'openai:judge'\napi_key = 's3cret'",
        "[evaluators]\njudge = ['openai:judge', 's3cret']",
        "[evaluators.judge]\nspec = 'openai:judge'\napi_key = ['s3cret']",
    ],
)
def test_a_key_in_the_wrong_place_shows_in_no_error(written, text):
    with pytest.raises(ConfigError) as refused:
        read_settings(written(text), {})
    assert "s3cret" not in "".join(traceback.format_exception(refused.value))


def test_a_file_that_cannot_be_read_is_told_by_its_path(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml cannot be read: No such file"):
        read_settings(tmp_path / "nowhere.toml", {})
