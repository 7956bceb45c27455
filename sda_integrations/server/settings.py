"""ServerSettings: who may ask a server, what it answers by where a request does not say, and its limits."""

import re
from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import Field, SecretStr, SkipValidation, field_validator, model_validator

from sda_engine.alignment import PRESETS, Alignment, AlignmentLike
from sda_engine.config import Sampling, Steering
from sda_engine.errors import ConfigError
from sda_engine.evaluators import Evaluator
from sda_engine.settings import Settings, shown
from sda_engine.wire.read_request import read_alignment

FREE_EVALUATORS = ("contrastive", "self-rating", "uncertainty", "fixed")
"""Kinds of evaluators that need nothing but the model, and cost nobody money: any client may name them."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PRINTABLE = re.compile(r"[\x21-\x7e]+")
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[!-~]+")  # as browsers send it, to the letter
_IN_NO_ORIGIN = re.compile(r"[A-Z/?#@*]")  # behind its scheme


class ServerLimits(Settings):
    """What a request may be like. How large schemas and grammars may be is the engine's own limit.

    Attributes:
        body_bytes: bytes of a request's body; pictures, which are written into it, take a third more than their files.
        text_bytes: bytes of it beside the pictures. Each may become a token, which takes hundreds of bytes of memory.
        header_bytes: bytes of a request's first line and headers together.
        headers: how many headers it may have.
        messages: turns of a chat.
        prompts: texts that one request to /v1/completions may hold.
        n: answers that it may ask for.
        tools: tools that it may offer.
        stops: texts that may end the answer.
    """

    body_bytes: int = Field(default=32 * 2**20, ge=1024, description="a whole number of at least 1024")
    text_bytes: int = Field(default=4 * 2**20, ge=1024, description="a whole number of at least 1024")
    header_bytes: int = Field(default=32 * 2**10, ge=1024, description="a whole number of at least 1024")
    headers: int = Field(default=100, ge=8, description="a whole number of at least 8")
    messages: int = Field(default=1024, ge=1, description="a whole number of at least 1")
    prompts: int = Field(default=16, ge=1, description="a whole number of at least 1")
    n: int = Field(default=16, ge=1, description="a whole number of at least 1")
    tools: int = Field(default=128, ge=0, description="a whole number of at least 0")
    stops: int = Field(default=16, ge=0, description="a whole number of at least 0")


class EvaluatorSettings(Settings):
    """An evaluator that the server's operator offers to clients under a name.

    Attributes:
        spec: as after `--evaluator`: openai:MODEL, reward:MODEL, or one of those that anybody may ask for.
        url: address of the OpenAI-compatible server of openai:MODEL; None means OpenAI itself.
        api_key: its key; None means OPENAI_API_KEY where there is no url, else none.
    """

    spec: str = Field(min_length=1, description="a text such as 'openai:gpt-4.1', 'reward:MODEL' or 'contrastive'")
    url: str | None = Field(default=None, description="an address such as 'http://host:8000/v1', or None")
    api_key: SecretStr | None = Field(default=None, description="a text, or None")

    @field_validator("api_key", mode="before")
    @classmethod
    def _as_secret(cls, key: object) -> object:
        return SecretStr(key) if isinstance(key, str) else key


EvaluatorLike = str | EvaluatorSettings | Evaluator
"""What means an evaluator of the server: a spec, a spec with its server's address, or the object itself."""


class ServerSettings(Settings):
    """Where a server listens, who may ask it, and by what it answers where a request does not say.

    Attributes:
        host: address to listen at. Any other than the machine's own loopback is for networks, and wants `api_keys`.
        port: port to listen at; 0 takes a free one.
        api_keys: keys of which a request must bring one; () lets anybody in.
        served_model_name: what clients call the model; None means the engine's name for it.
        alignment: what is steered by where a request does not say: a name of `alignments`, or whatever the engine
            takes. None means a plain answer.
        alignments: alignments by names that requests may use, and that make aliases of the model: "NAME:ALIGNMENT".
        evaluator: who rates base responses where a request does not say: a name of `evaluators`, or a spec such as
            "contrastive". None means the one of `steering`.
        chooser: who rates revisions where a request does not say, likewise.
        evaluators: evaluators by names that requests may use.
        steering: how strongly to steer where a request does not say; the request's fields come before these.
        sampling: how to sample where it does not say, likewise.
        limits: what a request may be like.
        cors_origins: origins of web pages that may read the server's answers; () lets none, "*" lets all.
        shutdown_seconds: seconds that running requests may go on once the server is told to end.
    """

    host: str = Field(default="127.0.0.1", min_length=1, description="an address or a host's name")
    port: int = Field(default=8000, ge=0, le=65535, description="a whole number from 0 to 65535")
    api_keys: tuple[SecretStr, ...] = Field(
        default=(), description="a list of keys, each of printable ASCII characters without blanks"
    )
    served_model_name: str | None = Field(default=None, min_length=1, description="a text without ':', or None")
    alignment: SkipValidation[AlignmentLike | None] = Field(
        default=None, description="a preset, an instruction, an Alignment, several with weights, or None"
    )
    alignments: Mapping[str, Alignment] = Field(
        default_factory=dict, description="a dict of names and alignments, none of them a preset's name"
    )
    evaluator: str | None = Field(default=None, min_length=1, description="a name of `evaluators`, a spec, or None")
    evaluators: Mapping[str, SkipValidation[EvaluatorLike]] = Field(
        default_factory=dict, description="a dict of names and specs, EvaluatorSettings or evaluators"
    )
    chooser: str | None = Field(default=None, min_length=1, description="a name of `evaluators`, a spec, or None")
    steering: Steering = Field(default_factory=Steering, description="a Steering")
    sampling: Sampling = Field(default_factory=Sampling, description="a Sampling")
    limits: ServerLimits = Field(default_factory=ServerLimits, description="a ServerLimits")
    cors_origins: tuple[str, ...] = Field(default=(), description="a list of origins such as 'https://example.org'")
    shutdown_seconds: Annotated[float, Field(ge=0, le=86_400)] = Field(
        default=30.0, description="a number of seconds from 0 to 86,400"
    )

    @field_validator("api_keys", mode="before")
    @classmethod
    def _keys(cls, keys: object) -> object:
        several = (keys,) if isinstance(keys, (str, SecretStr)) else keys
        if not isinstance(several, (list, tuple)):
            return several
        secrets = tuple(SecretStr(key) if isinstance(key, str) else key for key in several)
        for secret in secrets:
            if isinstance(secret, SecretStr) and not _PRINTABLE.fullmatch(secret.get_secret_value()):
                raise ConfigError(
                    "ServerSettings.api_keys holds a key that no client could send: each must be printable ASCII "
                    "characters, at least one, without blanks. Make one with: openssl rand -hex 32"
                )
        return secrets

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _origins(cls, origins: object) -> object:
        several = (origins,) if isinstance(origins, str) else origins
        if not isinstance(several, (list, tuple)):
            return several
        for origin in several:
            if isinstance(origin, str) and not _is_origin(origin):
                raise ConfigError(
                    f"ServerSettings.cors_origins cannot have {shown(origin)}: it must be '*', or as browsers send "
                    f"it, scheme://host[:port] in lower case and without '/' at its end, e.g. 'https://example.org'."
                )
        return tuple(several)

    @field_validator("served_model_name")
    @classmethod
    def _leaves_room_for_aliases(cls, name: str | None) -> str | None:
        if name is not None and ":" in name:
            raise ValueError("a colon begins an alias")
        return name

    @field_validator("alignments", mode="before")
    @classmethod
    def _alignments(cls, given: object) -> object:
        if not isinstance(given, Mapping):
            return given
        for name in given:
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise ConfigError(
                    f"ServerSettings.alignments cannot have the name {name!r}: it must begin with a letter or digit, "
                    f"and hold nothing but these, '.', '_' and '-'."
                )
            if name.lower() in PRESETS:
                raise ConfigError(
                    f"ServerSettings.alignments cannot have {name!r}: that is a preset's name, and clients mean the "
                    f"preset by it. Choose another."
                )
        return {name: _named(name, one) for name, one in given.items()}

    @field_validator("evaluators")
    @classmethod
    def _evaluators(cls, given: Mapping[str, object]) -> Mapping[str, object]:
        for name, value in given.items():
            if not _PRINTABLE.fullmatch(name) or name.partition(":")[0] in FREE_EVALUATORS:
                raise ConfigError(
                    f"ServerSettings.evaluators cannot have the name {name!r}: it must be printable ASCII characters "
                    f"without blanks, and not begin like those that anybody may ask for "
                    f"({', '.join(FREE_EVALUATORS)})."
                )
            legal = isinstance(value, (str, EvaluatorSettings)) or (
                isinstance(value, Evaluator) and not isinstance(value, type)
            )
            if not legal:
                raise ConfigError(
                    f"ServerSettings.evaluators[{name!r}] cannot be an object of type "
                    f"{type(value).__name__} (not shown here): it must be a spec such as 'openai:gpt-4.1', an "
                    f"EvaluatorSettings, or an evaluator."
                )
        return given

    @model_validator(mode="after")
    def _alignment_can_be_read(self) -> Self:
        self.default_alignment()
        return self

    def default_alignment(self) -> Alignment | None:
        """What is steered by where a request does not say; None for a plain answer.

        Raises:
            ConfigError: `alignment` is none.
        """
        given = self.alignment
        return given if isinstance(given, Alignment) else read_alignment(given, self.alignments)


def _is_origin(text: str) -> bool:
    """Whether a browser may send this as the origin of a page, or it stands for all origins."""
    return bool(_ORIGIN.fullmatch(text)) and not _IN_NO_ORIGIN.search(text.partition("://")[2])


def _named(name: str, given: object) -> object:
    """The alignment of a name, by which results call it where it has no other."""
    try:
        alignment = given if isinstance(given, Alignment) else read_alignment(given, {})
    except ConfigError as error:
        raise ConfigError(f"ServerSettings.alignments[{name!r}]: {error}") from error
    return alignment.replace(name=name) if alignment is not None and alignment.name == "custom" else alignment
