"""API keys: checked before they are sent, and hidden in what servers answer."""

import re

import openai
from pydantic import SecretStr

from sda_engine.errors import ConfigError

NO_KEY = "not-needed"
"""What stands for a key where there is none: the SDK insists on one, and servers without keys ignore it."""


def check_key(name: str, api_key: str | SecretStr) -> SecretStr:
    """A key that fits into an HTTP header; the error of a header that does not would show the key.

    Args:
        name: what the key was given as, for the error: an argument, or a variable of the environment.
        api_key: the key.

    Raises:
        ConfigError: it does not fit.
    """
    key = api_key.get_secret_value() if isinstance(api_key, SecretStr) else api_key
    if not (isinstance(key, str) and re.fullmatch(r"[!-~]+", key)):
        raise ConfigError(
            f"{name} (not shown here) must be one key, a text of printable ASCII characters without spaces and line "
            f"ends. Strip what you read from a file; leave it out if the server needs no key."
        )
    return SecretStr(key)


def hide_key(text: str, api_key: SecretStr | None) -> str:
    """A text from a server without the key, should the server have echoed it."""
    key = api_key.get_secret_value() if api_key else NO_KEY
    # A key such as "x" or "EMPTY" protects nothing, and hiding it would garble the text
    return text if key == NO_KEY or len(key) < 8 else text.replace(key, "[api_key]")


def hide_key_in(error: BaseException, api_key: SecretStr | None) -> None:
    """Hide the key in the text of an exception and of those that it stems from."""
    link: BaseException | None = error
    while link is not None:
        link.args = tuple(hide_key(arg, api_key) if isinstance(arg, str) else arg for arg in link.args)
        if isinstance(link, openai.APIError):  # tools that report errors dump attributes, too
            link.message = hide_key(link.message, api_key)
            link.body = hide_key(link.body, api_key) if isinstance(link.body, str) else None
        link = link.__cause__ or link.__context__
