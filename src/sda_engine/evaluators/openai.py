"""OpenAIEvaluator: a judge behind any OpenAI-compatible server rates the base response."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import openai
from openai.types.shared_params import ResponseFormatJSONSchema
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from sda_engine.errors import EvaluationError
from sda_engine.evaluators.judge import Ask, JudgeEvaluator, JudgeReply, count, unusable
from sda_engine.evaluators.judge_server import JudgeServer
from sda_engine.evaluators.retries import FieldRefusedError
from sda_engine.evaluators.verdict import VERDICT_SCHEMA, RatingPrompt, shortened
from sda_engine.servers import retry_after

_RESPONSE_FORMAT: ResponseFormatJSONSchema = {
    "type": "json_schema",
    "json_schema": {"name": "verdict", "strict": True, "schema": VERDICT_SCHEMA},
}
# Request fields that a server may refuse, with the words by which its error names them
_FIELD_WORDS = {
    "response_format": ("response_format", "response format", "json_schema", "structured output"),
    "temperature": ("temperature",),
}
_REMEDIES = {
    401: "Pass the right api_key, or set OPENAI_API_KEY where base_url is not given.",
    403: "Use a key that may call this model, from a place that the server admits.",
    404: "Check the model name, and that base_url is the root of the API, which mostly ends in /v1.",
    429: "Send fewer requests at a time, check the quota of the key, or raise timeout and max_retries.",
}


class OpenAIEvaluator(JudgeEvaluator):
    """Asks a judge model behind an OpenAI-compatible server to rate the base response from 1 to 100.

    The judge answers in a JSON schema where its server offers that, and in plain text of the same form where
    it does not; either is parsed strictly. A fault raises EvaluationError and never becomes a score. Building
    an evaluator opens nothing, each rating closes what it opened, redirects are not followed, and a reply of more than
    64 KiB is dropped. After five failures in a row the judge is left alone but for one probe every 30 seconds.

    A pickle leaves the API key out. Once unpickled, the key is read from OPENAI_API_KEY if base_url is None;
    a key that was given along with base_url is gone, and ratings raise EvaluationError.

    Args:
        model: the judge, as its server calls it.
        base_url: root of the API, `http(s)://host[:port][/path]`. None means OpenAI itself, whatever
            OPENAI_BASE_URL says; a server that is named here is sent no OPENAI_* variable.
        api_key: None means OPENAI_API_KEY where base_url is None, and no real key elsewhere.
        timeout: seconds for one rating with all its samples, retries and waits; above 0, at most 86,400.
        max_retries: further calls per sample after rate limits (429), server errors, lost connections and
            unusable replies; at least 0. One call more is made where the server turns out to refuse a request
            field in the very last of them.
        samples: ratings to ask for at once, of which the score is the median; at least 1. A single rating is
            asked for at temperature 0, several at the server's default.
        prices: what a million prompt tokens and a million completion tokens cost, for `Score.usage.cost`.

    Attributes:
        breaker: whether the judge is left alone for now.

    Raises:
        ConfigError: an argument is out of range, or OpenAI's key is missing.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | SecretStr | None = None,
        timeout: float = 30.0,
        max_retries: int = 5,
        samples: int = 1,
        prices: tuple[float, float] | None = None,
    ) -> None:
        named = isinstance(model, str) and bool(model.strip())
        self._check("model", model, named, "the name of a model, e.g. 'gpt-4.1'")
        self.model = model
        self._server = JudgeServer(base_url, api_key)
        super().__init__(timeout=timeout, max_retries=max_retries, samples=samples, prices=prices)
        self._fields = frozenset(_FIELD_WORDS if samples == 1 else _FIELD_WORDS.keys() - {"temperature"})
        self._fields_are_proven = False  # the server has accepted a request with these fields

    @property
    def _identity(self) -> str:
        server = "" if self._server.base_url is None else f", base_url={self._server.base_url!r}"
        return f"{self.model!r}{server}"

    @property
    def _judge(self) -> str:
        return f"The judge {self.model!r} at {self._server.url}"

    @asynccontextmanager
    async def _connect(self, *, blocking: bool) -> AsyncGenerator[Ask]:
        fields = set(self._fields)
        # Connecting loads the certificates, 20 ms in which the loop should go on
        async with await asyncio.to_thread(self._server.connect) as client:
            yield lambda prompt: self._ask(client, prompt, fields)

    async def _ask(self, client: openai.AsyncOpenAI, prompt: RatingPrompt, fields: set[str]) -> JudgeReply:
        """One call. A field that the server refuses is taken out of `fields`, for the calls that follow."""
        sent = frozenset(fields)
        try:
            reply = await client.chat.completions.with_raw_response.create(
                model=self.model,
                messages=[
                    {"role": "system", "content": prompt.system},
                    {"role": "user", "content": prompt.user},
                ],
                response_format=_RESPONSE_FORMAT if "response_format" in sent else openai.omit,
                temperature=0.0 if "temperature" in sent else openai.omit,
            )
        except openai.APIStatusError as error:
            if (field := self._refused_field(error, sent)) is None:
                raise
            self._server.hide_key_in(error)
            fields.discard(field)
            raise FieldRefusedError(f"the server refused the field {field!r}") from error
        self._fields, self._fields_are_proven = sent, True
        return _read(reply.http_response.content)

    def _refused_field(self, error: openai.APIStatusError, sent: frozenset[str]) -> str | None:
        """The field to leave out after an error: one that it names, else response_format if unproven."""
        complaint = f"{error.message} {error.body}".lower()
        if error.status_code not in (401, 403, 429):
            for field, words in _FIELD_WORDS.items():
                if field in sent and any(word in complaint for word in words):
                    return field
        unproven = "response_format" in sent and not self._fields_are_proven
        return "response_format" if unproven and error.status_code in (400, 422) else None

    def _hide(self, text: str) -> str:
        return self._server.hide_key(text)

    def _hide_in(self, error: Exception) -> None:
        self._server.hide_key_in(error)

    def _explain(self, error: Exception, calls: str) -> str | None:
        if isinstance(error, EvaluationError):
            return unusable(self._judge, error, calls)
        if isinstance(error, openai.APIConnectionError):
            cause = shortened(str(error.__cause__ or error))
            return (
                f"{self._judge} could not be reached in {calls}: {cause}. Check base_url, the network, and "
                f"whether the server runs."
            )
        if isinstance(error, openai.APIStatusError):
            said = self._server.hide_key(error.body if isinstance(error.body, str) else error.message)
            wait = retry_after(error)
            asked = "" if wait is None else f" It asks to wait {wait:g} s; timeout allows {self.timeout:g} s in all."
            remedy = _remedy(error.status_code)
            return f"{self._judge} answered {error.status_code} after {calls}: {shortened(said)}.{asked} {remedy}"
        return (
            f"{self._judge} failed in {calls}: {shortened(str(error))}."
            if isinstance(error, openai.OpenAIError)
            else None
        )


class _Reply(BaseModel):
    """Part of a server's reply; its errors show no input, which could hold secrets."""

    model_config = ConfigDict(hide_input_in_errors=True)


class _Message(_Reply):
    content: str | None = None
    refusal: str | None = None


class _Choice(_Reply):
    message: _Message
    finish_reason: str | None = None


class _Completion(_Reply):
    choices: list[_Choice] = Field(min_length=1, max_length=1)
    usage: object = None  # what it says is told, and must not fail a rating


def _read(reply: bytes) -> JudgeReply:
    """The text of the judge's own message and its token counts, and nothing else of the server's reply."""
    try:
        completion = _Completion.model_validate_json(reply)
    except ValidationError as error:
        start = shortened(reply[:1000].decode(errors="replace"))
        raise EvaluationError(
            f"The server's reply is no chat completion with one choice: {start}. Is base_url the root of an "
            f"OpenAI-compatible API?"
        ) from error
    choice = completion.choices[0]
    if choice.message.refusal:
        raise EvaluationError(f"The judge refused to rate: {shortened(choice.message.refusal)}.")
    if choice.finish_reason in ("length", "content_filter"):
        raise EvaluationError(f"The judge's reply was cut off (finish_reason {choice.finish_reason!r}).")
    if choice.message.content is None:
        raise EvaluationError("The judge's reply has no content (null).")
    usage = completion.usage if isinstance(completion.usage, dict) else {}
    return JudgeReply(choice.message.content, count(usage.get("prompt_tokens")), count(usage.get("completion_tokens")))


def _remedy(status: int) -> str:
    if 300 <= status < 400:
        return "Redirects are not followed, lest the prompt go astray: set base_url to the final address."
    if status >= 500:
        return "The fault is the server's: try again later, or choose another judge."
    fallback = "Check the model name, and that conversation and response fit the judge's context window."
    return _REMEDIES.get(status, fallback)
