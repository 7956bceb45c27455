"""What adapters need of an engine, be it in this process or behind a server."""

import inspect
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol, TypeGuard, Unpack

from sda_engine.alignment import AlignmentLike
from sda_engine.models import TemplateValue
from sda_engine.output import Output
from sda_engine.prompts import Message
from sda_engine.request_settings import RequestOptions
from sda_engine.results import Completion, Piece


class Engine(Protocol):
    """What adapters need of an engine; SteeringEngine says what each part means, and RemoteEngine has them all too."""

    @property
    def name(self) -> str:
        """The model's name."""
        ...

    @property
    def context_window(self) -> int:
        """Tokens that the model can attend to, prompt and answer together."""
        ...

    @property
    def thinks(self) -> bool:
        """Whether the model may write a thought before its answer."""
        ...

    @property
    def reads_pictures(self) -> bool:
        """Whether messages may hold pictures."""
        ...

    @property
    def template_variables(self) -> frozenset[str]:
        """The variables of the model's chat template that a request may set."""
        ...

    @property
    def closed(self) -> bool:
        """Whether the engine has been closed."""
        ...

    def describe(self) -> dict[str, object]:
        """What identifies the model, as plain JSON, without asking anybody."""
        ...

    def generate(
        self, messages: Sequence[Message], alignment: AlignmentLike | None = None, **options: Unpack[RequestOptions]
    ) -> Completion:
        """Answer a chat."""
        ...

    def stream(
        self, messages: Sequence[Message], alignment: AlignmentLike | None = None, **options: Unpack[RequestOptions]
    ) -> Generator[Piece, None, None]:
        """The same in pieces; the last one carries the Completion."""
        ...

    async def agenerate(
        self, messages: Sequence[Message], alignment: AlignmentLike | None = None, **options: Unpack[RequestOptions]
    ) -> Completion:
        """`generate` for an event loop."""
        ...

    def astream(
        self, messages: Sequence[Message], alignment: AlignmentLike | None = None, **options: Unpack[RequestOptions]
    ) -> AsyncGenerator[Piece, None]:
        """`stream` for an event loop."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text."""
        ...

    def count_prompt_tokens(
        self,
        messages: Sequence[Message],
        *,
        output: Output = Output(),  # noqa: B008 - frozen
        template_kwargs: Mapping[str, TemplateValue] = MappingProxyType({}),
    ) -> int:
        """Tokens of the base prompt that these messages become."""
        ...


_PARTS = tuple(name for name in vars(Engine) if not name.startswith("_"))


def is_engine(value: object) -> TypeGuard[Engine]:
    """Whether something has all that an engine has. No property is read: a remote engine would ask its server."""
    return not isinstance(value, type) and all(inspect.getattr_static(value, name, None) is not None for name in _PARTS)
