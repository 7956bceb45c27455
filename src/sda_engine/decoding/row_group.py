"""The rows of one request while they are decoded: logits of all rows in, one token for all rows out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sda_engine.completion import FinishReason, GeneratedTokenLogprobs
from sda_engine.config import Sampling, Steering
from sda_engine.decoding.detokenizer import Detokenizer, StopChecker
from sda_engine.decoding.recorder import Recorder
from sda_engine.errors import NumericalError
from sda_engine.prompts import AVOIDED, BASE, INSTRUCTED
from sda_engine.sampling import make_generator, sample
from sda_engine.steering import TEMPERATURE_SCHEDULES, SteeredStep, TemperatureSchedule, steered_step
from sda_engine.tokenization import SafeTokenizer
from sda_engine.trace import TraceToken


@dataclass(frozen=True)
class DecodeSettings:
    """What decides the tokens of one answer.

    Attributes:
        rows: names of the rows that decide, the base row first.
        strength: gain * amplification.
        avoid_strength: weight of the step away from the avoided row.
        stop: strings that end the answer.
        max_new_tokens: the answer ends after this many tokens.
        eos_token_ids: tokens that end the answer.
    """

    rows: tuple[str, ...]
    strength: float
    avoid_strength: float
    steering: Steering
    sampling: Sampling
    stop: tuple[str, ...]
    max_new_tokens: int
    eos_token_ids: frozenset[int]


@dataclass(frozen=True)
class DecodedToken:
    """One step's result: the token, the text that may be given out, and whether the answer ends here."""

    token_id: int
    text: str
    finish_reason: FinishReason | None
    logprobs: tuple[GeneratedTokenLogprobs, ...]


@dataclass(frozen=True)
class DecodedText:
    """A whole answer."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    tokens: tuple[TraceToken, ...]
    logprobs: tuple[GeneratedTokenLogprobs, ...]


class RowGroup:
    """The state of one answer between two forward passes."""

    def __init__(self, settings: DecodeSettings, tokenizer: SafeTokenizer) -> None:
        self._settings = settings
        self._generator = make_generator(settings.sampling.seed)
        self._detokenizer = Detokenizer(tokenizer.decode)
        self._stop = StopChecker(settings.stop)
        self._recorder = Recorder(_with_special_tokens(tokenizer), settings.sampling.logprobs)
        self._token_ids: list[int] = []
        self._texts: list[str] = []

    def advance(self, logits: Tensor) -> DecodedToken:
        """Choose the next token.

        Args:
            logits: (rows, vocab), in the order of the settings' rows.

        Raises:
            NumericalError: there is no distribution to sample from.
        """
        step = self._steer(dict(zip(self._settings.rows, logits.unsqueeze(1), strict=True)))
        token_id = self._draw(step)
        self._token_ids.append(token_id)
        ended = token_id in self._settings.eos_token_ids
        decoded = "" if ended else self._detokenizer.push(token_id)
        self._recorder.add(step, 0, token_id, decoded)
        text = self._stop.push(decoded)
        reason: FinishReason | None = None
        if ended or self._stop.stopped:
            reason = "stop"
        elif len(self._token_ids) >= self._settings.max_new_tokens:
            reason = "length"
        if reason is not None:
            text += self._flush()
            reason = "stop" if self._stop.stopped else reason
        self._texts.append(text)
        return DecodedToken(token_id, text, reason, tuple(self._recorder.generated[-1:]))

    def result(self, finish_reason: FinishReason) -> DecodedText:
        """The answer so far."""
        return DecodedText(
            text="".join(self._texts),
            token_ids=tuple(self._token_ids),
            finish_reason=finish_reason,
            tokens=tuple(self._recorder.tokens),
            logprobs=tuple(self._recorder.generated),
        )

    def _steer(self, logits: dict[str, Tensor]) -> SteeredStep:
        steering, sampling = self._settings.steering, self._settings.sampling
        return steered_step(
            logits[BASE],
            logits.get(INSTRUCTED),
            strength=self._settings.strength,
            temperature=sampling.temperature,
            sensitivity=steering.temperature_sensitivity,
            min_temperature=steering.min_temperature,
            plausibility=steering.plausibility,
            avoided_logits=logits.get(AVOIDED),
            avoid_strength=self._settings.avoid_strength,
            schedule=_schedule(steering),
        )

    def _draw(self, step: SteeredStep) -> int:
        if bool(step.logprobs.isnan().any()):
            raise NumericalError(
                f"The model's logits hold NaN or nothing but -inf at token {len(self._token_ids)} of the answer, so "
                f"there is nothing to sample from. Load the model with dtype='float32', and check its weights."
            )
        sampling = self._settings.sampling
        limits = {"top_k": sampling.top_k, "top_p": sampling.top_p, "min_p": sampling.min_p}
        tensors = {name: None if limit is None else torch.tensor([limit]) for name, limit in limits.items()}
        uniform = torch.rand(1, generator=self._generator, dtype=torch.float64)
        return int(sample(step.logprobs.cpu(), uniform, **tensors))

    def _flush(self) -> str:
        """Text still held back at the end; a stop string may be complete only with the last of it."""
        text = self._stop.push(self._detokenizer.flush())
        return text if self._stop.stopped else text + self._stop.flush()


def _schedule(steering: Steering) -> TemperatureSchedule:
    schedule = steering.temperature_schedule
    return TEMPERATURE_SCHEDULES[schedule] if isinstance(schedule, str) else schedule


def _with_special_tokens(tokenizer: SafeTokenizer) -> Callable[[Sequence[int]], str]:
    return lambda token_ids: tokenizer.decode(token_ids, skip_special_tokens=False)
