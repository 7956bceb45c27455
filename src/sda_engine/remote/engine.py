"""RemoteEngine: an engine on another machine, asked through its server."""

from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import aclosing
from types import MappingProxyType
from typing import Self, Unpack

from pydantic import SecretStr

from sda_engine.alignment import AlignmentLike
from sda_engine.errors import ConfigError
from sda_engine.models import TemplateValue
from sda_engine.output import LooseningNotes, Output
from sda_engine.prompts import Message
from sda_engine.remote.asking import Asker
from sda_engine.remote.caller import Caller
from sda_engine.remote.connection import connect, read_key
from sda_engine.remote.failures import Explainer
from sda_engine.remote.server import Server
from sda_engine.request_settings import RequestOptions, RequestSettings
from sda_engine.results import Completion, Piece
from sda_engine.servers import check_url
from sda_engine.settings import check_argument, check_timeout
from sda_engine.wire.write_request import write_tokenize_request


class RemoteEngine:
    """The interface of SteeringEngine over `sda serve` on another machine. Safe for many threads and event loops.

    ```python
    engine = RemoteEngine("http://host:8000/v1", model="smollm2-135m", api_key="...")
    done = engine.generate([{"role": "user", "content": "Is the earth flat?"}], alignment="honesty")
    ```

    Only what a request names is sent: the server's defaults stand for the rest, and `alignment=None` asks for a plain
    answer here as well. What lives in this process, such as a function as a temperature schedule, cannot be sent, and
    is a ConfigError.

    Evaluators. Under `sda serve` they rate in the server: Steering(evaluator=ServerEvaluator("judge")) names one of its
    own, and one of this process is a ConfigError. A server that tells that it has none, such as an SDA-enabled vLLM,
    gets two requests, a plain one for the base response and a steered one; in between the evaluator rates here, in the
    thread or event loop that asked, and its key stays here. What curve, accept_score and on_evaluator_error say counts
    here then, whatever the server's defaults. Evaluators that look inside the model, and choosers, are a ConfigError
    there before an answer is asked for; a fixed score and a fixed amplification take one request everywhere. Under the
    policy "revise" the server decodes the base response once more to revise it, with the same seed, and `Usage` counts
    it twice. The base response is held against its schema as any answer is, so it may be an InvalidOutputError.

    Nothing is opened before the first request. Engines that name the same server with the same key share one pool of
    connections. Closing a stream or cancelling a task closes its connection at once, by which the server knows that
    nobody waits any more. Redirects are not followed, and a reply of more than 256 MiB is refused.

    Tries. A request is sent again, up to `max_retries` times, where the connection could not be made or was lost before
    the reply began, and for the statuses 429 (full), 502, 503 and 504, unless the error's code says that it will not
    pass, or the header x-should-retry is "false". Between tries it waits for a quarter of a second or a little more,
    then twice as long, and never less than Retry-After; a wait that would pass the request's deadline is not begun.
    Other statuses are never tried again, 400 and 500 among them, and nothing is once the reply has begun: an answer
    that breaks off is a ServerError, with the text that came in `partial`.

    Deadlines. The `timeout` of a request holds for all of it, tries, waits and ratings included. It goes to the server
    too, and is kept here half a second later, so that the server's own error may come.

    A pickle leaves the key out: the copy takes it from SDA_API_KEY.

    Args:
        base_url: root of the API, `http(s)://host[:port][/path]`, which mostly ends in /v1.
        model: what the server calls the model: a name or alias that its /v1/models lists.
        api_key: None means SDA_API_KEY, and no key where that is not set.
        timeout: seconds for requests that name none; None for no limit.
        max_retries: further tries, at least 0.
        trace: whether answers come with what steering did at each token (`Completion.trace.tokens`), which makes
            replies ten times as long or more.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str,
        api_key: str | SecretStr | None = None,
        timeout: float | None = 600.0,
        max_retries: int = 2,
        trace: bool = False,
    ) -> None:
        owner = type(self).__name__
        named = isinstance(model, str) and bool(model.strip())
        check_argument(owner, "model", model, named, "a name that the server knows, e.g. 'smollm2-135m'")
        whole = isinstance(max_retries, int) and not isinstance(max_retries, bool) and max_retries >= 0
        check_argument(owner, "max_retries", max_retries, whole, "a whole number, 0 or more")
        check_argument(owner, "trace", trace, isinstance(trace, bool), "True or False")
        self._model, self._trace = model, trace
        self._timeout = None if timeout is None else check_timeout(timeout)
        self._url = check_url(owner, base_url)
        self._key = read_key(owner, api_key)
        self._server = Server(self._url, Explainer(self._url, self._key), max_retries)
        self._caller = Caller(connect(self._url, self._key))
        self._asker = Asker(model, self._server, self._caller, timeout=self._timeout, trace=trace)
        self._notes = LooseningNotes()

    @property
    def base_url(self) -> str:
        """The root of the server's API."""
        return self._url

    @property
    def name(self) -> str:
        """The model's name, as the server calls it."""
        return self._model

    def connect(self) -> None:
        """Ask the server what it knows of the model, unless that was asked. So do the properties that tell of it.

        Warns with NoEffectWarning where the model's name is an alias with an alignment, which says nothing here.

        Raises:
            ModelLoadError: the server does not know the model.
            ConfigError: it refuses the key.
            ServerError: it cannot be reached, or is none of ours.
        """
        self._asker.facts()

    @property
    def context_window(self) -> int:
        """Tokens that the model can attend to, prompt and answer together. See `connect`."""
        return self._asker.facts().context_window

    @property
    def thinks(self) -> bool:
        """Whether the model may write a thought before its answer. See `connect`."""
        return self._asker.facts().thinks

    @property
    def reads_pictures(self) -> bool:
        """Whether messages may hold pictures. See `connect`."""
        return self._asker.facts().reads_pictures

    @property
    def template_variables(self) -> frozenset[str]:
        """What of the model's chat template requests may set. See `connect`."""
        return self._asker.facts().template_variables

    @property
    def closed(self) -> bool:
        """Whether the engine has been closed."""
        return self._caller.closed

    def describe(self) -> dict[str, object]:
        """What identifies the model, as plain JSON: its name and its server. The server is not asked."""
        return {"model": self._model, "base_url": self._url}

    def for_model(self, model: str) -> Self:
        """An engine for another model of the same server, with the same key and settings."""
        return type(self)(
            self._url,
            model=model,
            api_key=self._key,
            timeout=self._timeout,
            max_retries=self._server.max_retries,
            trace=self._trace,
        )

    def generate(
        self,
        messages: Sequence[Message],
        alignment: AlignmentLike | None = None,
        **options: Unpack[RequestOptions],
    ) -> Completion:
        """Answer a chat. Arguments and errors are those of SteeringEngine.generate, and these:

        Raises:
            ServerError: the server cannot be reached, failed, broke off, or answers something else.
            ConfigError: what is asked for cannot be sent, or the server refuses the key.
            ModelLoadError: the server does not know the model.
            EngineClosedError: this engine was closed, or the server is shutting down.
        """
        return self._asker.asked(messages, self._settings(alignment, options, whole=True)).completion()

    def stream(
        self,
        messages: Sequence[Message],
        alignment: AlignmentLike | None = None,
        **options: Unpack[RequestOptions],
    ) -> Generator[Piece, None, None]:
        """The same in pieces, as they come; the last one carries the Completion.

        What can be checked here is checked at once, the request is sent with the first piece. Closing the iterator
        closes its connection.
        """
        return self._asker.asked(messages, self._settings(alignment, options, whole=False)).pieces()

    async def agenerate(
        self,
        messages: Sequence[Message],
        alignment: AlignmentLike | None = None,
        **options: Unpack[RequestOptions],
    ) -> Completion:
        """`generate` for an event loop, which goes on meanwhile. Cancelling the task closes the connection."""
        asked = await self._asker.asked_in_loop(messages, self._settings(alignment, options, whole=True))
        return await asked.completion_in_loop()

    def astream(
        self,
        messages: Sequence[Message],
        alignment: AlignmentLike | None = None,
        **options: Unpack[RequestOptions],
    ) -> AsyncGenerator[Piece, None]:
        """`stream` for an event loop. Closing the iterator or cancelling the task closes the connection."""
        return self._pieces_in_loop(messages, self._settings(alignment, options, whole=False))

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; special tokens are neither added nor recognised. The server is asked each time."""
        body = {"model": self._model, "prompt": text, "sda": {}}
        return list(self._caller.wait(lambda client: self._server.tokenize(client, body)).tokens or ())

    def count_prompt_tokens(
        self,
        messages: Sequence[Message],
        *,
        output: Output = Output(),  # noqa: B008 - frozen
        template_kwargs: Mapping[str, TemplateValue] = MappingProxyType({}),
    ) -> int:
        """Tokens of the base prompt that these messages become, see SteeringEngine.count_prompt_tokens."""
        body = write_tokenize_request(self._model, messages, output, template_kwargs)
        return self._caller.wait(lambda client: self._server.tokenize(client, body)).count

    def close(self) -> None:
        """Give up all requests of this engine. Requests from here on are refused."""
        self._caller.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self  # what is copied shares the connection

    def __reduce__(self) -> tuple[Callable[..., "RemoteEngine"], tuple[object, ...]]:
        settings = (self._url, self._model, self._timeout, self._server.max_retries, self._trace)
        return _unpickle, (type(self), *settings)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r}, model={self._model!r})"

    def _settings(self, alignment: AlignmentLike | None, options: RequestOptions, *, whole: bool) -> RequestSettings:
        settings = RequestSettings.of(alignment, options, whole=whole)
        if settings.cache_salt is not None:
            raise ConfigError(
                "cache_salt (not shown here) cannot be sent: a server salts what it stores by the key of its caller. "
                "Leave it out, and give those a key of their own whose prompts others must not find.",
                field="cache_salt",
            )
        self._notes.warn_of(settings.output.left_out)  # the server tells its own log
        return settings

    async def _pieces_in_loop(
        self, messages: Sequence[Message], settings: RequestSettings
    ) -> AsyncGenerator[Piece, None]:
        asked = await self._asker.asked_in_loop(messages, settings)
        async with aclosing(asked.pieces_in_loop()) as pieces:
            async for piece in pieces:
                yield piece


def _unpickle(
    kind: type[RemoteEngine], base_url: str, model: str, timeout: float | None, max_retries: int, trace: bool
) -> RemoteEngine:
    """A RemoteEngine with the key of this process, since a pickle has none."""
    return kind(base_url, model=model, timeout=timeout, max_retries=max_retries, trace=trace)
