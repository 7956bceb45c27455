"""A text that is given: its log-probabilities under the steered distribution, by the step that decodes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sda_engine.config import Sampling, Steering
from sda_engine.decoding.mixing import mix_instructed
from sda_engine.decoding.prompt_state import PromptState
from sda_engine.decoding.score_task import ScoreTask, no_distribution
from sda_engine.decoding.tasks import Choosing
from sda_engine.decoding.wanted import Chosen, Wanted
from sda_engine.steering import Budget, Purse

STEERED = "steered"

_GREEDY = Sampling(temperature=0)  # the token is given: nothing is to be drawn


@dataclass(frozen=True)
class TextSteering:
    """What decides the steered distribution of texts that are given.

    Attributes:
        strength: gain * amplification.
        avoid_strength: weight of the step away from the avoided row.
        plausibility: see `steered_step`.
        budget: how far each text may go from the base distribution; None, the paper, for no limit.
    """

    strength: float
    avoid_strength: float
    plausibility: float = 0.0
    budget: Budget | None = None


class SteeredScoreTask(ScoreTask):
    """Log-probabilities of a given text under the steered distribution, before the temperature.

    All tokens of a pass go through one step. With a budget, what each may spend depends on the tokens before it. So the
    first step lets each spend all that is left at the beginning of the pass; the tokens from the first one on for which
    that was too much go through another step.

    Args:
        prompt: where the rows come from; all of them take part.
        steering: what decides the distribution.
        token_ids: the text.
        continues: see Task.
    """

    def __init__(
        self, prompt: PromptState, steering: TextSteering, token_ids: Sequence[int], *, continues: bool = True
    ) -> None:
        super().__init__(prompt, tuple(prompt.contexts.tails), token_ids, continues=continues)
        self._text_steering = steering
        self._steering = Steering(plausibility=steering.plausibility)
        self._purse = _purse_of(steering)
        self._masked = False  # whether tokens are known to be masked

    @property
    def _names(self) -> Sequence[str]:
        return (STEERED,)

    def _begin_again(self) -> bool | Choosing:
        self._purse = _purse_of(self._text_steering)
        return super()._begin_again()

    def _score(self, logits: Tensor) -> Choosing:
        token_ids = self._token_ids[self._scored : self._scored + logits.shape[1]]
        rows = dict(zip(self.row_names, logits[:, : len(token_ids)], strict=True))
        mixed = mix_instructed(rows, self.prompt.contexts.weights)
        places = [{name: values[place] for name, values in mixed.items()} for place in range(len(token_ids))]
        logprobs: list[float] = []
        while (done := len(logprobs)) < len(token_ids):
            # the first token of a second round may spend all that is left, so nothing is the better guess for the rest
            wanted = self._wanted(places[done:], token_ids[done:], later=0.0 if done else None)
            chosen = yield wanted
            for asked, came in zip(wanted, chosen, strict=True):
                if came.broken:
                    raise no_distribution()
                if not self._pays(asked, came):
                    break
                logprobs.append(came.logprob)
                self._masked = self._masked or came.masked
        self._logprobs.append(torch.tensor([logprobs], dtype=torch.float32))
        return self._scored == len(self._token_ids)

    def _wanted(
        self, places: Sequence[Mapping[str, Tensor]], token_ids: Sequence[int], *, later: float | None
    ) -> list[Wanted]:
        """A step for each of the next tokens.

        Args:
            places: the logits of all rows, (vocab,) each.
            token_ids: the tokens that follow there.
            later: nats that all but the first may spend, where there is a budget; None for all that is left of it.
        """
        left, quiet = (None, 0.0) if self._purse is None else (self._purse.left, self._purse.quiet_divergence)
        return [
            Wanted(
                logits=logits,
                steering=self._steering,
                sampling=_GREEDY,
                strength=self._text_steering.strength,
                avoid_strength=self._text_steering.avoid_strength,
                uniform=0.0,
                budget=left if place == 0 or left is None or later is None else later,
                quiet_divergence=quiet,
                masked=self._masked,
                given=token_id,
            )
            for place, (logits, token_id) in enumerate(zip(places, token_ids, strict=True))
        ]

    def _pays(self, asked: Wanted, came: Chosen) -> bool:
        """Spend what a token costs; False where what it was allowed is not what is left, and makes a difference.

        It makes none where less is left, but enough for full steering, or where nothing is spent on the token anyhow.
        """
        if self._purse is None:
            return True
        left = self._purse.left
        assert asked.budget is not None, "there is a purse"
        assert came.spent is not None, "there is a budget"
        if asked.budget != left and not (asked.budget > left >= came.spent and came.position in (0.0, 1.0)):
            return False
        self._purse.spend(came.spent)
        return True


def _purse_of(steering: TextSteering) -> Purse | None:
    return None if steering.budget is None else Purse(steering.budget)
