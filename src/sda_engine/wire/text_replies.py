"""The replies of /v1/completions, OpenAI's older route, which answers a text in place of a chat."""

from typing import Literal

from sda_engine.wire.base import Told, left_out
from sda_engine.wire.replies import FinishReason, SDAPart, SDAResult, UsageReport


class TextLogprobs(Told):
    """Log-probabilities in this route's form: lists with an entry for each token.

    Attributes:
        tokens: the texts of the tokens.
        token_logprobs: nats.
        top_logprobs: the chosen token's and the most likely ones', by their texts.
        text_offset: where each begins in the texts of all tokens together, in characters.
    """

    tokens: tuple[str, ...]
    token_logprobs: tuple[float, ...]
    top_logprobs: tuple[dict[str, float], ...]
    text_offset: tuple[int, ...]


class TextChoice(Told):
    """One answer to one prompt. In a stream, what is new of it."""

    index: int = 0
    text: str = ""
    reasoning_content: str | None = left_out()
    logprobs: TextLogprobs | None = None
    finish_reason: FinishReason | None = None
    sda: SDAResult | SDAPart | None = left_out()


class TextReply(Told):
    """The reply of /v1/completions, and each event of its stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: tuple[TextChoice, ...]
    usage: UsageReport | None = left_out()
    sda: SDAResult | SDAPart | None = left_out()
