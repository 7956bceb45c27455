"""OpenAIEvaluator: a judge behind any OpenAI-compatible server rates the base response."""

import asyncio
import statistics
from concurrent.futures import ThreadPoolExecutor

import openai
from openai.types.shared_params import ResponseFormatJSONSchema
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from sda_engine.errors import ConfigError, EvaluationError
from sda_engine.evaluators.judge_server import JudgeServer
from sda_engine.evaluators.protocol import EvaluationRequest, Score
from sda_engine.evaluators.retries import FieldRefusedError, make_retrying, retry_after
from sda_engine.evaluators.verdict import (
    VERDICT_SCHEMA,
    RatingPrompt,
    Verdict,
    make_rating_prompt,
    parse_verdict,
    shortened,
)

_GRACE = 0.5  # seconds past the deadline that `evaluate` waits for its worker thread
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


class OpenAIEvaluator:
    """Asks a judge model behind an OpenAI-compatible server to rate the base response from 1 to 100.

    The judge answers in a JSON schema where its server offers that, and in plain text of the same form where
    it does not; either is parsed strictly. A fault raises EvaluationError and never becomes a score. Building
    an evaluator opens nothing, each rating closes what it opened, and redirects are not followed.

    A pickle leaves the API key out. Once unpickled, the key is read from OPENAI_API_KEY if base_url is None;
    a key that was given along with base_url is gone, and ratings raise EvaluationError.

    Args:
        model: the judge, as its server calls it.
        base_url: root of the API, http(s)://host[:port][/path]. None means OpenAI itself, whatever
            OPENAI_BASE_URL says; a server that is named here is sent no OPENAI_* variable.
        api_key: None means OPENAI_API_KEY where base_url is None, and no real key elsewhere.
        timeout: seconds for one rating with all its samples, retries and waits; above 0, at most 86,400.
        max_retries: further calls per sample after rate limits (429), server errors, lost connections and
            unusable replies; at least 0. One call more is made where the server turns out to refuse a request
            field in the very last of them.
        samples: ratings to ask for at once, of which the score is the median; at least 1. A single rating is
            asked for at temperature 0, several at the server's default.

    Raises:
        ConfigError: an argument is out of range, or OpenAI's key is missing.
    """

    needs_response = True

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | SecretStr | None = None,
        timeout: float = 30.0,
        max_retries: int = 5,
        samples: int = 1,
    ) -> None:
        _check(
            "model",
            model,
            isinstance(model, str) and bool(model.strip()),
            "the name of a model, e.g. 'gpt-4.1'",
        )
        legal = isinstance(timeout, (int, float)) and not isinstance(timeout, bool) and 0 < timeout <= 86_400
        _check("timeout", timeout, legal, "a number of seconds above 0 and at most 86400; the default is 30.0")
        _check("max_retries", max_retries, _is_at_least(0, max_retries), "a whole number of at least 0, e.g. 5")
        _check("samples", samples, _is_at_least(1, samples), "a whole number of at least 1, e.g. 1")
        self.model = model
        self.timeout = float(timeout)
        self.max_retries = max_retries
        self.samples = samples
        self._server = JudgeServer(base_url, api_key)
        self._fields = frozenset(_FIELD_WORDS if samples == 1 else _FIELD_WORDS.keys() - {"temperature"})
        self._fields_are_proven = False  # the server has accepted a request with these fields

    @property
    def name(self) -> str:
        """Everything that changes a score, and no secret: how results and cache keys call this evaluator."""
        server = "" if self._server.base_url is None else f", base_url={self._server.base_url!r}"
        samples = "" if self.samples == 1 else f", samples={self.samples}"
        return f"OpenAIEvaluator({self.model!r}{server}{samples})"

    def __repr__(self) -> str:
        return self.name

    def evaluate(self, request: EvaluationRequest) -> Score:
        """Rate the response of a request: `aevaluate`, in a worker thread with an event loop of its own.

        Only an event loop can hold a deadline against a server that drips bytes, since the timeouts of an
        HTTP client run from byte to byte. The thread makes that possible inside a running loop too.

        Raises:
            EvaluationError: no usable rating within the deadline; it carries the base response.
        """
        executor = ThreadPoolExecutor(1, thread_name_prefix="sda-openai-evaluator")
        try:
            rating = executor.submit(lambda: asyncio.run(self.aevaluate(request)))
            return rating.result(self.timeout + _GRACE)
        except TimeoutError as error:  # the thread is stuck where no loop can cancel it, e.g. in name resolution
            overdue = self._overdue([])
            overdue.base_response = request.response
            raise overdue from error
        finally:
            executor.shutdown(wait=False)

    async def aevaluate(self, request: EvaluationRequest) -> Score:
        """Rate the response of a request without blocking the event loop (asyncio).

        Raises:
            EvaluationError: no usable rating within the deadline; it carries the base response.
        """
        try:
            return self._combined(await self._verdicts(make_rating_prompt(request)))
        except EvaluationError as error:
            error.base_response = request.response
            raise

    async def _verdicts(self, prompt: RatingPrompt) -> list[Verdict]:
        """All samples, asked for at the same time and bounded by one deadline."""
        failures: list[BaseException] = []
        try:
            # Connecting loads the certificates, 20 ms in which the loop should go on
            async with asyncio.timeout(self.timeout), await asyncio.to_thread(self._server.connect) as client:
                samples = [self._sample(client, prompt, failures) for _ in range(self.samples)]
                outcomes = await asyncio.gather(*samples, return_exceptions=True)
        except TimeoutError as error:
            raise self._overdue(failures) from (failures[-1] if failures else error)
        verdicts = []
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            verdicts.append(outcome)
        return verdicts

    async def _sample(self, client: openai.AsyncOpenAI, prompt: RatingPrompt, failures: list[BaseException]) -> Verdict:
        """One rating, retried within bounds; `failures` receives each one that another call follows."""
        fields = set(self._fields)
        retrying = make_retrying(self.max_retries, self.timeout, failures)
        try:
            verdict: Verdict = await retrying(self._ask, client, prompt, fields)
        except (openai.OpenAIError, EvaluationError) as error:
            raise EvaluationError(self._explained(error, int(retrying.statistics["attempt_number"]))) from error
        return verdict

    async def _ask(self, client: openai.AsyncOpenAI, prompt: RatingPrompt, fields: set[str]) -> Verdict:
        """One call. A field that the server refuses is taken out of `fields`, for the call that follows."""
        try:
            reply = await client.chat.completions.with_raw_response.create(
                model=self.model,
                messages=[
                    {"role": "system", "content": prompt.system},
                    {"role": "user", "content": prompt.user},
                ],
                response_format=_RESPONSE_FORMAT if "response_format" in fields else openai.omit,
                temperature=0.0 if "temperature" in fields else openai.omit,
            )
        except openai.OpenAIError as error:
            self._server.hide_key_in(error)
            if not isinstance(error, openai.APIStatusError) or (field := self._refused_field(error, fields)) is None:
                raise
            fields.discard(field)
            raise FieldRefusedError(f"the server refused the field {field!r}") from error
        self._fields, self._fields_are_proven = frozenset(fields), True
        try:
            return parse_verdict(_content(reply.http_response.content))
        except EvaluationError as error:
            self._server.hide_key_in(error)
            raise

    def _refused_field(self, error: openai.APIStatusError, fields: set[str]) -> str | None:
        """The field to leave out after an error: one that it names, else response_format if unproven."""
        complaint = f"{error.message} {error.body}".lower()
        if error.status_code not in (401, 403, 429):
            for field, words in _FIELD_WORDS.items():
                if field in fields and any(word in complaint for word in words):
                    return field
        unproven = "response_format" in fields and not self._fields_are_proven
        return "response_format" if unproven and error.status_code in (400, 422) else None

    def _combined(self, verdicts: list[Verdict]) -> Score:
        scores = tuple(verdict.score for verdict in verdicts)
        median = statistics.median(scores)
        nearest = min(verdicts, key=lambda verdict: abs(verdict.score - median))
        return Score(
            value=median,
            evaluator=self.name,
            reason=self._server.hide_key(nearest.reason),
            samples=scores if len(scores) > 1 else (),
        )

    def _explained(self, error: openai.OpenAIError | EvaluationError, calls: int) -> str:
        """What went wrong and what to do about it."""
        tries = f"{calls} call{'s' if calls > 1 else ''}"
        if isinstance(error, EvaluationError):
            return f"{self._judge} gave no usable verdict in {tries}. {error} Choose a more reliable judge."
        if isinstance(error, openai.APIConnectionError):
            cause = shortened(str(error.__cause__ or error))
            return (
                f"{self._judge} could not be reached in {tries}: {cause}. Check base_url, the network, and "
                f"whether the server runs."
            )
        if not isinstance(error, openai.APIStatusError):
            return f"{self._judge} failed in {tries}: {shortened(str(error))}."
        said = self._server.hide_key(error.body if isinstance(error.body, str) else error.message)
        wait = retry_after(error)
        asked = "" if wait is None else f" It asks to wait {wait:g} s; timeout allows {self.timeout:g} s in all."
        remedy = _remedy(error.status_code)
        return f"{self._judge} answered {error.status_code} after {tries}: {shortened(said)}.{asked} {remedy}"

    def _overdue(self, failures: list[BaseException]) -> EvaluationError:
        last = f" The last failure: {shortened(str(failures[-1]))}." if failures else ""
        return EvaluationError(
            f"{self._judge} gave no usable verdict within timeout={self.timeout:g} seconds.{last} Raise "
            f"timeout, or choose a faster judge."
        )

    @property
    def _judge(self) -> str:
        return f"The judge {self.model!r} at {self._server.url}"


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


def _content(reply: bytes) -> str:
    """The text of the judge's own message, and nothing else of the server's reply."""
    try:
        choice = _Completion.model_validate_json(reply).choices[0]
    except ValidationError as error:
        start = shortened(reply[:1000].decode(errors="replace"))
        raise EvaluationError(
            f"The server's reply is no chat completion with one choice: {start}. Is base_url the root of an "
            f"OpenAI-compatible API?"
        ) from error
    if choice.message.refusal:
        raise EvaluationError(f"The judge refused to rate: {shortened(choice.message.refusal)}.")
    if choice.finish_reason in ("length", "content_filter"):
        raise EvaluationError(f"The judge's reply was cut off (finish_reason {choice.finish_reason!r}).")
    if choice.message.content is None:
        raise EvaluationError("The judge's reply has no content (null).")
    return choice.message.content


def _remedy(status: int) -> str:
    if 300 <= status < 400:
        return "Redirects are not followed, lest the prompt go astray: set base_url to the final address."
    if status >= 500:
        return "The fault is the server's: try again later, or choose another judge."
    fallback = "Check the model name, and that conversation and response fit the judge's context window."
    return _REMEDIES.get(status, fallback)


def _check(argument: str, value: object, legal: bool, must_be: str) -> None:
    if not legal:
        raise ConfigError(f"OpenAIEvaluator.{argument} cannot be {value!r}: it must be {must_be}.")


def _is_at_least(bound: int, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= bound
