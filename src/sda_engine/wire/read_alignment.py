"""The alignment that a request asks for: by name, in the user's own words, as an object, or several with weights."""

from collections.abc import Mapping, Sequence

from sda_engine.alignment import Alignment, resolve_alignment
from sda_engine.errors import ConfigError
from sda_engine.settings import shown
from sda_engine.user_warnings import without_user_warnings
from sda_engine.wire.fields import within

_MOST_ALIGNMENTS = 16  # in one: each has a context of its own
_LONGEST_ALIGNMENT = 64 * 1024  # characters of all its texts together
_DEEPEST = 4  # that of a text in a part of an object: parts, pair, object, text


def read_alignment(given: object, alignments: Mapping[str, Alignment]) -> Alignment | None:
    """The alignment that the value of `sda.alignment` means.

    A name of the server's own comes before the presets', and these before what is taken as an instruction.

    Args:
        given: a name, an instruction, an object, several of these with weights, or None for a plain answer.
        alignments: the server's own, by name.

    Raises:
        ConfigError: it means none, holds more alignments or longer texts than a request may have.
    """
    with within("sda.alignment"), without_user_warnings():
        _check_length(given)
        if isinstance(given, str):
            return _named(given, alignments)
        if isinstance(given, Mapping):
            if not _has_weights(given):
                return Alignment.of_values(given)
            given = list(given.items())
        if isinstance(given, Sequence):
            if len(given) > _MOST_ALIGNMENTS:
                raise _too_many(len(given))
            return Alignment.combine([_read_part(pair, place, alignments) for place, pair in enumerate(given)])
        return resolve_alignment(given)


def _named(given: str, alignments: Mapping[str, Alignment]) -> Alignment | None:
    return alignments.get(given) or resolve_alignment(given)


def _has_weights(given: Mapping[str, object]) -> bool:
    """Whether an object is alignments with their weights, and not one alignment with its fields."""
    numbers = any(isinstance(value, (int, float)) and not isinstance(value, bool) for value in given.values())
    return numbers and not given.keys() & Alignment.model_fields.keys()


def _read_part(pair: object, place: int, alignments: Mapping[str, Alignment]) -> tuple[Alignment | str, float]:
    if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
        raise ConfigError('An alignment among several must be a pair with its weight, as in ["honesty", 1.0].')
    part, weight = pair
    if isinstance(part, str):
        alignment = _named(part, alignments)
    elif isinstance(part, Mapping):
        with within(f"sda.alignment[{place}][0]"):
            alignment = Alignment.of_values(part)
    else:
        raise ConfigError(
            f"An alignment among several cannot be {shown(part)}: it must be a name, an instruction, or an object, as "
            f'in [["honesty", 1.0], [{{"instruction": "Use plain words."}}, 0.5]].'
        )
    return alignment, weight  # type: ignore[return-value]  # Alignment.combine checks both


def _check_length(given: object) -> None:
    """Refuse an alignment of which reading alone would take seconds, or more stack than there is.

    Raises:
        ConfigError: it holds too many parts, too deep ones, or its texts are too long.
    """
    length, waiting = 0, [(given, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > _DEEPEST:
            raise ConfigError("An alignment cannot hold alignments that are combined themselves: make one list of all.")
        if isinstance(value, str):
            length += len(value)
        elif isinstance(value, Mapping):
            if isinstance(parts := value.get("parts"), Sequence) and len(parts) > _MOST_ALIGNMENTS:
                raise _too_many(len(parts))
            waiting += [(inner, depth + 1) for inner in (*value.keys(), *value.values())]
        elif isinstance(value, Sequence):
            waiting += [(inner, depth + 1) for inner in value]
    if length > _LONGEST_ALIGNMENT:
        raise ConfigError(
            f"An alignment cannot have {length:,} characters in all its texts: it may have {_LONGEST_ALIGNMENT:,}. "
            f"Long instructions are recited rather than followed: put documents into the messages."
        )


def _too_many(count: int) -> ConfigError:
    return ConfigError(
        f"An alignment cannot have {count:,} parts: it may have {_MOST_ALIGNMENTS}, since each has a context of its "
        f"own. Say several of them in one instruction."
    )
