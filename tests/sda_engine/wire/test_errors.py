"""Errors go over the wire by a code for each class, and come out as what they were."""

import pytest

from sda_engine import errors
from sda_engine.errors import (
    ConfigError,
    ContextLengthError,
    EngineClosedError,
    EvaluationError,
    IncompleteOutputError,
    InvalidOutputError,
    MessageError,
    SDAError,
)
from sda_engine.wire.errors import KINDS, kind_of, read_error, write_error
from sda_engine.wire.replies import ErrorObject, ErrorReply

CANARY = "canary at /srv/models and http://10.1.2.3"
CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SDAError)]
OF_THE_REQUEST = {
    *("ConfigError", "MessageError", "ConstraintError", "ContextLengthError", "InvalidOutputError"),
    *("IncompleteOutputError", "ModelLoadError"),
}
EXAMPLES = [
    InvalidOutputError("It does not fit.", text='{"a": 1}'),
    IncompleteOutputError("It was cut off.", partial='{"a"'),
    EvaluationError("No score.", base_response="The earth is round."),
    EngineClosedError("It closes.", partial="The earth"),
    ContextLengthError(5000, 4096),
]


def told(error):
    """An error that has been JSON on its way."""
    return ErrorReply.model_validate_json(write_error(error).model_dump_json()).error


def made(kind, message):
    """An error of a class, whatever else it needs."""
    if kind is ContextLengthError:
        return kind(5000, 4096)
    return kind(message, text="") if kind is InvalidOutputError else kind(message)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_comes_out_as_itself(kind):
    error = read_error(told(made(kind, "What went wrong.")))
    wire = kind_of(made(kind, ""))
    assert type(error) is wire.error
    assert kind is wire.error or issubclass(kind, wire.error)
    if wire.text is None and kind is not ContextLengthError:
        assert str(error) == "What went wrong."


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_what_an_error_carries_comes_along(error):
    read = read_error(told(error))
    mine = {name: value for name, value in vars(error).items() if name != "field"}
    assert {name: getattr(read, name) for name in mine} == mine
    if kind_of(error).text is None:
        assert str(read) == str(error)


def test_the_field_that_is_wrong_comes_along():
    error = read_error(told(ConfigError("It must be at least 0.", field="sda.gain")))
    assert (error.field, str(error)) == ("sda.gain", "It must be at least 0.")
    assert read_error(told(MessageError("Empty."))).field == "messages"


def test_codes_are_unique_and_children_come_before_their_parents():
    assert len({kind.code for kind in KINDS}) == len(KINDS)
    for place, kind in enumerate(KINDS):
        assert not [later.code for later in KINDS[place + 1 :] if issubclass(later.error, kind.error)]


def test_only_what_may_pass_is_worth_another_try():
    assert {kind.code for kind in KINDS if kind.again} == {"queue_full", "shutting_down"}
    assert all(kind.status >= 429 for kind in KINDS if kind.again)


class ForeignError(Exception):
    """An error of a library, which has what some of ours have."""

    field = base_response = partial = text = CANARY


FAILURES = [
    *(made(kind, CANARY) for kind in CLASSES if kind.__name__ not in OF_THE_REQUEST),
    *(ForeignError(CANARY), RuntimeError(CANARY), MemoryError(CANARY), KeyError(CANARY)),
]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_of_what_fails_in_the_server_no_text_gets_out(error):
    written = write_error(error).model_dump_json()
    assert "canary" not in written
    assert type(read_error(told(error))) is kind_of(error).error


def test_a_code_that_is_none_of_ours_is_no_error_of_ours():
    assert read_error(ErrorObject(message="Slow down.", code="rate_limit_exceeded")) is None
    assert read_error(ErrorObject(message="Slow down.")) is None


def test_a_context_that_is_too_long_stays_an_error_of_the_messages_where_figures_are_missing():
    error = read_error(ErrorObject(message="Too long.", code="context_length_exceeded"))
    assert (type(error), str(error)) == (MessageError, "Too long.")
