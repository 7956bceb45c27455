"""Every error that the engine raises, in one tree.

    SDAError
    ├── ConfigError            a setting is unknown or out of range
    ├── MessageError           the chat messages cannot be turned into a prompt
    ├── ConstraintError        a schema or grammar cannot be enforced, or is too large
    ├── IncompleteOutputError  an answer ended before the object or call in it was whole
    ├── InvalidOutputError     an answer does not fit the part of its schema that no grammar could enforce
    ├── ContextLengthError     the prompt leaves no room in the model's context window
    ├── ModelLoadError         no model under that name, or one that the engine cannot run
    ├── EvaluationError        an evaluator gave no usable score; the base response is kept
    ├── NumericalError         the model's logits contain no usable distribution
    ├── QueueFullError         the engine has taken on as many requests as it may
    ├── CapacityError          one request alone needs more cache memory than the engine may use
    ├── RequestTimeoutError    the request took longer than its caller allowed (also a TimeoutError)
    └── EngineClosedError      the engine was closed while, or before, the request ran

A message says what was given, what is legal, and what to do about it. None is a ValueError: frameworks take that for a
model's bad answer, and go on with an empty one in place of the error.
"""


class SDAError(Exception):
    """Anything that the engine refuses or fails to do.

    Attributes:
        field: the name of the setting that is wrong, where one alone is.
    """

    field: str | None = None


class ConfigError(SDAError):
    """A setting is unknown or out of its legal range."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class MessageError(SDAError):
    """The chat messages cannot be turned into a prompt."""


class ConstraintError(SDAError):
    """A schema, regular expression or grammar cannot be enforced, or is larger than the engine takes."""


class IncompleteOutputError(SDAError):
    """An answer reached its token limit before the object or the tool call that it was to be was whole.

    Attributes:
        partial: the text of the answer as far as it got.
    """

    def __init__(self, message: str, *, partial: str = "") -> None:
        super().__init__(message)
        self.partial = partial


class InvalidOutputError(SDAError):
    """A whole answer does not fit the part of its JSON schema that no grammar could enforce.

    Attributes:
        text: the answer.
    """

    def __init__(self, message: str, *, text: str) -> None:
        super().__init__(message)
        self.text = text


class ContextLengthError(SDAError):
    """The prompt leaves no room for one new token in the model's context window.

    Attributes:
        prompt_tokens: tokens of the longest prompt of the request.
        context_window: tokens that the model can attend to, prompt and answer together.
    """

    def __init__(self, prompt_tokens: int, context_window: int) -> None:
        super().__init__(
            f"The prompt has {prompt_tokens} tokens, and the model's context window of {context_window} tokens "
            f"must also hold at least one new token. Shorten the messages or the retrieved documents by "
            f"{prompt_tokens - context_window + 1} tokens or more, or load a model with a longer window."
        )
        self.prompt_tokens = prompt_tokens
        self.context_window = context_window


class ModelLoadError(SDAError):
    """No model was found under a name, or the engine cannot run it.

    Attributes:
        reason: what models of this type have that the engine cannot run, in a few words; None where that is not known.
    """

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason


class EvaluationError(SDAError):
    """An evaluator gave no usable score.

    Attributes:
        base_response: the text of the base response that was to be rated, where one had been decoded.
    """

    def __init__(self, message: str, *, base_response: str | None = None) -> None:
        super().__init__(message)
        self.base_response = base_response


class NumericalError(SDAError):
    """The model's logits hold NaN, or every token is masked: there is no distribution to sample from."""


class QueueFullError(SDAError):
    """The engine has taken on as many requests as it may; a later try can succeed."""


class CapacityError(SDAError):
    """One request alone needs more memory for its keys and values than the engine may use."""


class RequestTimeoutError(SDAError, TimeoutError):
    """The request took longer than its caller allowed."""


class EngineClosedError(SDAError):
    """The engine was closed before the request could finish.

    Attributes:
        partial: the text of the answer as far as it got; "" where it had not begun.
    """

    def __init__(self, message: str, *, partial: str = "") -> None:
        super().__init__(message)
        self.partial = partial
