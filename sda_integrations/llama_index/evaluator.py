"""LLMEvaluator: any LlamaIndex LLM as the judge that rates base responses."""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole
from llama_index.core.llms.llm import LLM

from sda_engine.errors import EvaluationError
from sda_engine.evaluators.judge import Ask, JudgeEvaluator, JudgeReply, count, unusable
from sda_engine.evaluators.verdict import RatingPrompt, shortened


class LLMEvaluator(JudgeEvaluator):
    """Asks a LlamaIndex LLM to rate the base response from 1 to 100.

    The judge is asked for one JSON object in its `chat`, and its own text is parsed strictly; everything else raises
    EvaluationError. An LLM that can be held to JSON (`additional_kwargs`, or a grammar) makes fewer calls fail. Its own
    retries come on top of `max_retries`. Its key stays where it is: neither name nor errors of the evaluator show it.

    Args:
        llm: the judge; SDALLM can be one.
        timeout: see JudgeEvaluator.
        max_retries: see JudgeEvaluator.
        samples: see JudgeEvaluator.
        prices: see JudgeEvaluator.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        llm: LLM,
        *,
        timeout: float = 30.0,
        max_retries: int = 2,
        samples: int = 1,
        prices: tuple[float, float] | None = None,
    ) -> None:
        self._check("llm", llm, isinstance(llm, LLM), "a LlamaIndex LLM, e.g. OpenAI(model='gpt-4.1')")
        self.llm = llm
        super().__init__(timeout=timeout, max_retries=max_retries, samples=samples, prices=prices)

    @property
    def _identity(self) -> str:
        """The LLM's class and model name, and a hash of all its settings."""
        known = json.dumps(self.llm.to_dict(), sort_keys=True, default=repr)  # to_dict leaves keys out
        return f"{self._who}, settings={hashlib.sha256(known.encode()).hexdigest()[:12]}"

    @property
    def _judge(self) -> str:
        return f"The judge {self._who}"

    @property
    def _who(self) -> str:
        return f"{type(self.llm).__name__} {self.llm.metadata.model_name!r}"

    @asynccontextmanager
    async def _connect(self, *, blocking: bool) -> AsyncGenerator[Ask]:
        async def ask(prompt: RatingPrompt) -> JudgeReply:
            messages = [
                ChatMessage(role=MessageRole.SYSTEM, content=prompt.system),
                ChatMessage(role=MessageRole.USER, content=prompt.user),
            ]
            if blocking:  # connections that an LLM keeps open are bound to an event loop, and this one ends soon
                return _read(await asyncio.to_thread(self.llm.chat, messages))
            return _read(await self.llm.achat(messages))

        yield ask

    def _explain(self, error: Exception, calls: str) -> str | None:
        if isinstance(error, EvaluationError):
            return unusable(self._judge, error, calls)
        return (
            f"{self._judge} failed in {calls}: {type(error).__name__}: {shortened(str(error))}. Check the LLM by "
            f"calling its chat on its own."
        )


def _read(answer: ChatResponse) -> JudgeReply:
    """The text that the LLM wrote, and the token counts where it tells them in one of the usual places."""
    raw = answer.raw if isinstance(answer.raw, Mapping) else {}
    places = (answer.additional_kwargs, raw.get("usage"), getattr(answer.raw, "usage", None))
    counts = [_counts(place) for place in places]
    return JudgeReply(answer.message.content or "", *next((pair for pair in counts if any(pair)), (0, 0)))


def _counts(usage: object) -> tuple[int, int]:
    names = ("prompt_tokens", "completion_tokens")
    if isinstance(usage, Mapping):
        return count(usage.get(names[0])), count(usage.get(names[1]))
    return count(getattr(usage, names[0], None)), count(getattr(usage, names[1], None))
