"""The variables of a chat template that a caller may set, such as `enable_thinking`.

A template is a program, and what it is given can change what a prompt means. So the template itself names what it may
be given, what transformers and the engine give it stays theirs, and values are plain.
"""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from functools import lru_cache

from jinja2 import meta
from transformers import PreTrainedTokenizerBase

from sda_engine.errors import ConfigError
from sda_engine.models.template_probe import make_environment
from sda_engine.settings import shown

TemplateValue = str | int | float | bool | None
"""What a variable of a chat template may be set to."""

_LARGEST = 2**53  # which JSON can still tell apart, and a template can write out
_GIVEN_ANYWAY = frozenset(
    {
        "messages",
        "tools",
        "documents",
        "add_generation_prompt",
        "begins_with_bos",  # of our plain template
        # arguments of transformers' apply_chat_template, which would never reach the template
        "conversation",
        "chat_template",
        "continue_final_message",
        "tokenize",
        "sanitize_control_tokens",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
        "kwargs",
        "self",
    }
)


def template_variables(tokenizer: PreTrainedTokenizerBase) -> frozenset[str]:
    """The variables of a tokenizer's chat templates that a caller may set."""
    templates = tokenizer.chat_template
    texts = templates.values() if isinstance(templates, dict) else [templates]
    named = frozenset[str]().union(*(_undeclared(text) for text in texts if isinstance(text, str)))
    special = {*tokenizer.SPECIAL_TOKENS_ATTRIBUTES, *tokenizer.special_tokens_map, "additional_special_tokens"}
    return named - _GIVEN_ANYWAY - special


def check_template_values(given: object) -> dict[str, TemplateValue]:
    """A copy of values for a template's variables, if they are plain.

    Raises:
        ConfigError: it is no mapping of names, or a value is no text, number, True, False or None.
    """
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise ConfigError(
            f"template_kwargs cannot be {shown(given)}: it must be a dict of variables of the model's chat template, "
            f"e.g. {{'enable_thinking': False}}."
        )
    for name, value in given.items():
        if not _is_plain(value):
            raise ConfigError(
                f"template_kwargs[{name!r}] cannot be {shown(value)}: it must be a text, a finite number of at most "
                f"2**53, True, False or None."
            )
    return dict(given)


def check_template_names(given: Collection[str], variables: Collection[str]) -> None:
    """Refuse names that are none of a template's variables.

    Args:
        given: the names.
        variables: what `template_variables` found.

    Raises:
        ConfigError: one of them is none.
    """
    legal = f"It must be one of: {', '.join(sorted(variables))}." if variables else "It takes none: leave it out."
    for name in given:
        if name in variables:
            continue
        close = get_close_matches(name, variables, n=1)
        hint = f"Did you mean {close[0]!r}? " if close else ""
        given_anyway = name in _GIVEN_ANYWAY or name.endswith("_token")
        reason = "is given by the engine itself" if given_anyway else "is no variable that it leaves open"
        raise ConfigError(
            f"template_kwargs cannot set {name!r} in the model's chat template: it {reason}. {hint}{legal}",
            field="template_kwargs",
        )


@lru_cache(maxsize=64)
def _undeclared(template: str) -> frozenset[str]:
    environment = make_environment()
    return frozenset(meta.find_undeclared_variables(environment.parse(template))) - frozenset(environment.globals)


def _is_plain(value: object) -> bool:
    if isinstance(value, (int, float)):
        return abs(value) <= _LARGEST
    return value is None or isinstance(value, str)
