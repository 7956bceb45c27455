"""What an engine answered, as a reply of /v1/completions: that of a chat in the older route's form."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sda_engine.results import Completion, Piece, Usage
from sda_engine.wire.replies import Choice, ChunkChoice, LikelyToken, Logprobs, PromptDetails, UsageReport
from sda_engine.wire.text_replies import TextChoice, TextLogprobs, TextReply
from sda_engine.wire.write_reply import ReplyWriter, usage_report


@dataclass(frozen=True)
class TextReplyWriter:
    """Writes the reply of one request for completions.

    Attributes:
        chat: writes the same as the reply of a chat.
        answers: how many of the choices answer the same prompt; those of the first prompt come first.
    """

    chat: ReplyWriter
    answers: int = 1
    _written: dict[int, int] = field(default_factory=dict, repr=False)  # characters of a choice's tokens so far

    def reply(self, completions: Sequence[Completion]) -> TextReply:
        """The whole reply, with an answer per choice."""
        told = self.chat.reply(completions)
        choices = tuple(map(self._choice, told.choices))
        usage = self._usage([completion.usage for completion in completions])
        return TextReply(id=told.id, created=told.created, model=told.model, choices=choices, usage=usage, sda=told.sda)

    def first_chunk(self, index: int) -> None:
        """Nothing: a text begins with its first piece."""

    def chunk(self, index: int, piece: Piece) -> TextReply | None:
        """The chunk of one piece of an answer; None where there is nothing in it to tell."""
        told = self.chat.chunk(index, piece)
        if told is None:
            return None
        choices = tuple(map(self._choice, told.choices))
        return TextReply(id=told.id, created=told.created, model=told.model, choices=choices, sda=told.sda)

    def usage_chunk(self, usages: Sequence[Usage]) -> TextReply:
        """The chunk that tells the token counts of all choices, behind their last ones."""
        chat = self.chat
        return TextReply(id=chat.id, created=chat.created, model=chat.model, choices=(), usage=self._usage(usages))

    def _choice(self, told: Choice | ChunkChoice) -> TextChoice:
        said = told.message if isinstance(told, Choice) else told.delta
        return TextChoice(
            index=told.index,
            text=said.content or "",
            reasoning_content=said.reasoning_content,
            logprobs=self._logprobs(told.index, told.logprobs),
            finish_reason=told.finish_reason,
            sda=told.sda,
        )

    def _logprobs(self, index: int, told: Logprobs | None) -> TextLogprobs | None:
        if told is None or told.content is None:
            return None
        offsets, places = [], told.content
        for place in places:
            offsets.append(self._written.get(index, 0))
            self._written[index] = offsets[-1] + len(place.token)
        return TextLogprobs(
            tokens=tuple(place.token for place in places),
            token_logprobs=tuple(place.logprob for place in places),
            top_logprobs=tuple(_by_text((*place.top_logprobs, place)) for place in places),
            text_offset=tuple(offsets),
        )

    def _usage(self, usages: Sequence[Usage]) -> UsageReport:
        """Token counts of all prompts; each counts once, however many answers it has."""
        step = self.answers
        reports = [usage_report(usages[start : start + step]) for start in range(0, len(usages), step)]
        cached = sum(report.prompt_tokens_details.cached_tokens for report in reports)
        return UsageReport(
            prompt_tokens=sum(report.prompt_tokens for report in reports),
            completion_tokens=sum(report.completion_tokens for report in reports),
            total_tokens=sum(report.total_tokens for report in reports),
            prompt_tokens_details=PromptDetails(cached_tokens=cached),
        )


def _by_text(tokens: Sequence[LikelyToken]) -> dict[str, float]:
    """Log-probabilities by text. Of several tokens with one text, such as parts of characters, the first one counts."""
    told: dict[str, float] = {}
    for token in tokens:
        told.setdefault(token.token, token.logprob)
    return told
