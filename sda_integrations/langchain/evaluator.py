"""ChatModelEvaluator: any LangChain chat model as the judge that rates base responses."""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import Runnable

from sda_engine.errors import EvaluationError
from sda_engine.evaluators.judge import Ask, JudgeEvaluator, JudgeReply, count, unusable
from sda_engine.evaluators.verdict import VERDICT_SCHEMA, RatingPrompt, shortened

_SCHEMA = {"title": "verdict", "description": "The verdict on a response.", **VERDICT_SCHEMA}


class ChatModelEvaluator(JudgeEvaluator):
    """Asks a LangChain chat model to rate the base response from 1 to 100.

    The verdict is asked for in a JSON schema where the model offers structured output, and in plain text where it does
    not; either way what the model itself wrote is parsed strictly, and everything else raises EvaluationError. The
    model's own retries come on top of `max_retries`: turn them off on one side. Its key stays where it is: neither name
    nor errors of the evaluator show it.

    Args:
        chat_model: the judge; ChatSDA can be one.
        timeout: see JudgeEvaluator.
        max_retries: see JudgeEvaluator.
        samples: see JudgeEvaluator.
        prices: see JudgeEvaluator.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        chat_model: BaseChatModel,
        *,
        timeout: float = 30.0,
        max_retries: int = 2,
        samples: int = 1,
        prices: tuple[float, float] | None = None,
    ) -> None:
        is_one = isinstance(chat_model, BaseChatModel)
        self._check("chat_model", chat_model, is_one, "a LangChain chat model, e.g. ChatOpenAI(model='gpt-4.1')")
        self.chat_model = chat_model
        super().__init__(timeout=timeout, max_retries=max_retries, samples=samples, prices=prices)
        self._judge_chain = _structured(chat_model)

    @property
    def _identity(self) -> str:
        """The model's name, and a hash of all its settings."""
        model = self.chat_model
        known = model._get_llm_string() if model.is_lc_serializable() else repr(model)
        return f"{model.get_name()}, settings={hashlib.sha256(known.encode()).hexdigest()[:12]}"

    @property
    def _judge(self) -> str:
        return f"The judge {self.chat_model.get_name()}"

    @asynccontextmanager
    async def _connect(self, *, blocking: bool) -> AsyncGenerator[Ask]:
        async def ask(prompt: RatingPrompt) -> JudgeReply:
            messages: list[BaseMessage] = [SystemMessage(prompt.system), HumanMessage(prompt.user)]
            if blocking:  # connections that a model keeps open are bound to an event loop, and this one ends soon
                return _read(await asyncio.to_thread(self._judge_chain.invoke, messages))
            return _read(await self._judge_chain.ainvoke(messages))

        yield ask

    def _explain(self, error: Exception, calls: str) -> str | None:
        if isinstance(error, EvaluationError):
            return unusable(self._judge, error, calls)
        return (
            f"{self._judge} failed in {calls}: {type(error).__name__}: {shortened(str(error))}. Check the model by "
            f"invoking it on its own."
        )


def _structured(chat_model: BaseChatModel) -> Runnable[LanguageModelInput, object]:
    """The model made to answer in the verdict's schema, or as it is where it offers no such thing."""
    try:
        return chat_model.with_structured_output(_SCHEMA, include_raw=True)
    except (NotImplementedError, ValueError, TypeError):
        return chat_model


def _read(answer: object) -> JudgeReply:
    """What the model itself wrote: the arguments of the one call by which it gives its verdict, or else its text."""
    message = answer["raw"] if isinstance(answer, dict) else answer
    if not isinstance(message, AIMessage):
        raise EvaluationError(f"The judge's answer is no AIMessage but {shortened(repr(message))}.")
    if len(message.tool_calls) > 1:
        raise EvaluationError(f"The judge gave {len(message.tool_calls)} verdicts in place of one.")
    content = json.dumps(message.tool_calls[0]["args"]) if message.tool_calls else message.text
    usage = message.usage_metadata
    tokens = (usage["input_tokens"], usage["output_tokens"]) if usage is not None else (0, 0)
    return JudgeReply(str(content), *map(count, tokens))
