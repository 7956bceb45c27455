"""JudgeServer: where a rating prompt and its API key may go, and how nothing of them goes anywhere else."""

import os
from typing import Self

import openai
from pydantic import SecretStr

from sda_engine.errors import ConfigError, EvaluationError
from sda_engine.servers import NO_KEY, check_key, check_url, hide_key, hide_key_in, open_client

_OWNER = "OpenAIEvaluator"
_OPENAI_URL = "https://api.openai.com/v1"
_MAX_REPLY_BYTES = 64 * 1024


class JudgeServer:
    """An OpenAI-compatible server and the key for it.

    A copy is the object itself, for it never changes. A pickle leaves the key out: once unpickled, the key
    comes from OPENAI_API_KEY where base_url is None, and is missing where one was given for another server.

    Args:
        base_url: the API's root; None means OpenAI itself, whatever OPENAI_BASE_URL says.
        api_key: None means OPENAI_API_KEY where base_url is None, and no real key elsewhere.

    Raises:
        ConfigError: base_url is no plain http(s) URL, the key is no plain ASCII text, or OpenAI's key is
            missing.
    """

    def __init__(self, base_url: str | None = None, api_key: str | SecretStr | None = None) -> None:
        self.base_url = None if base_url is None else check_url(_OWNER, base_url)
        self._has_own_key = api_key is not None
        self._key = _environment_key(base_url) if api_key is None else check_key(f"{_OWNER}.api_key", api_key)
        if self._key is None:
            raise ConfigError(
                "OpenAIEvaluator has no API key for OpenAI: set the environment variable OPENAI_API_KEY, "
                "pass api_key, or pass the base_url of a server of your own."
            )

    @property
    def url(self) -> str:
        """The API's root."""
        return self.base_url or _OPENAI_URL

    def __repr__(self) -> str:
        return f"JudgeServer({self.url!r})"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_key": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        if self.base_url is None or not self._has_own_key:
            self._key = _environment_key(self.base_url)

    def connect(self) -> openai.AsyncOpenAI:
        """A client for one event loop, to be closed by the caller: no retries, no timeouts, no redirects.

        Raises:
            EvaluationError: the key was left behind in a pickle.
        """
        if self._key is None:
            raise EvaluationError(
                f"The API key for {self.url} was not pickled along with the evaluator. Build the evaluator "
                f"anew with api_key; for OpenAI itself you can also set OPENAI_API_KEY before unpickling."
            )
        return open_client(
            self.url,
            self._key,
            most_bytes=_MAX_REPLY_BYTES,
            refuse=EvaluationError,
            send_foreign_headers=self.base_url is None,
        )

    def hide_key(self, text: str) -> str:
        """A text from the server without the key, should the server have echoed it."""
        return hide_key(text, self._key)

    def hide_key_in(self, error: BaseException) -> None:
        """Hide the key in the text of an exception and of those that it stems from."""
        hide_key_in(error, self._key)


def _environment_key(base_url: str | None) -> SecretStr | None:
    """OPENAI_API_KEY for OpenAI itself, None if it is not set; for any other server a placeholder."""
    if base_url is not None:
        return SecretStr(NO_KEY)
    key = os.environ.get("OPENAI_API_KEY")
    return check_key("The environment variable OPENAI_API_KEY", key) if key else None
