"""An engine on a tiny random model whose answers are laid out: markers stand where a test puts them, the rest is free.

So a random model thinks, speaks and calls, and a test knows which token belongs to what.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from sda_engine import EngineSettings, SteeringEngine
from sda_engine.output import TokenConstraint
from sda_engine.testing import CHAT_TEMPLATE, tiny_model, tiny_tokenizer

THINKING = CHAT_TEMPLATE.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
SPECIAL = [0, 1, 2]
FREE = 5  # tokens that the model chooses in each region


@dataclass(frozen=True)
class Part:
    """Free tokens of a region, and the text that is written behind them."""

    region: str
    then: str = ""


CALL = '<tool_call>\n{"name": "add", "arguments": {"a": "'
THINK_SAY_CALL = (Part("thought", "</think>\n\n"), Part("text", CALL), Part("call"))
THINK_JSON = (Part("thought", "</think>\n\n"), Part("structured"))


class Layout(TokenConstraint):
    """Forces the written texts, and forbids special tokens elsewhere.

    Args:
        forced: place -> token id.
    """

    def __init__(self, forced: Mapping[int, int]) -> None:
        self._forced, self._place = forced, 0

    def copy(self):
        return Layout(self._forced)

    @property
    def complete(self):
        return False

    def apply_mask(self, logits):
        return logits.index_fill(-1, torch.tensor(SPECIAL), float("-inf"))

    def forced(self):
        tokens, place = [], self._place
        while place in self._forced:
            tokens.append(self._forced[place])
            place += 1
        return tokens

    def choose(self, token_id, remaining):
        return token_id

    def advance(self, token_id):
        self._place += 1


class LaidOutEngine(SteeringEngine):
    """Answers by a layout; a request ends where its layout does, by `max_new_tokens`."""

    def __init__(self, parts: Sequence[Part], *, seed: int = 0, proposals: int = 0) -> None:
        settings = EngineSettings(proposals=proposals)
        super().__init__(tiny_model(seed=seed), tiny_tokenizer(chat_template=THINKING), settings=settings)
        self.places: list[str | int] = []  # a region for a free token, a token id for a written one
        for part in parts:
            self.places += [part.region] * FREE
            self.places += self.encode(part.then)

    def _request(self, messages, settings):
        request = super()._request(messages, settings)
        request.constraint = Layout({place: what for place, what in enumerate(self.places) if isinstance(what, int)})
        return request
