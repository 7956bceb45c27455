"""What the census asks of each model, and what a plain loop of transformers answers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .shape import END_ID

GAIN, AMPLIFICATION = 2.0, 0.5
_MASKED = 1e30  # models that rule a token out give it a logit beyond this


@dataclass(frozen=True)
class Question:
    """One request.

    Attributes:
        text: what the user asks.
        instruction: what to steer towards.
        avoid: what to steer away from, if anything.
        score: what a base response is rated at; None for a fixed amplification and no base response.
    """

    text: str
    instruction: str = "Be brief."
    avoid: str | None = None
    score: float | None = None

    @property
    def strength(self) -> float:
        """Gain times amplification: the fixed one, or the paper's eq. 3 of the score."""
        if self.score is None:
            return GAIN * AMPLIFICATION
        return GAIN * 2 * (1 / (1 + math.exp(1 - 100 / self.score)) - 0.5)

    def prompts(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
        """Row -> token ids, by transformers' own rendering: an instruction stands in a line after the question."""
        texts = {"base": self.text, "instructed": f"{self.text}\n{self.instruction}"}
        if self.avoid is not None:
            texts["avoided"] = f"{self.text}\n{self.avoid}"
        return {row: _render(text, tokenizer) for row, text in texts.items()}


_ALONE = Question("Tell me how the fox and the dog find the answer in the library, and who asks the question of it.")
# The first is asked alone and then again among the others, which differ in length, rows and stages
QUESTIONS = (
    _ALONE,
    Question("the quick brown fox", "Be kind and answer with care.", avoid="cold words"),
    Question("Who asks the question, and who answers it with care for the user?", score=40.0),
    _ALONE,
    Question("Hi"),
    Question(
        "Say how the dog jumps over the lazy fox and the answer is in the library, then say it again and again, and "
        "tell the user who asks the system and how the assistant answers the question of the quick brown fox."
    ),
    Question("Who jumps?", "Answer in many words, as the library does.", score=75.0),
    Question("Tell me how the fox finds the library.", "Sing of the dog.", avoid="a long list of the same words"),
)


@dataclass(frozen=True)
class LoopAnswer:
    """What the loop says.

    Attributes:
        token_ids: the answer.
        logprobs: their log-probabilities in the steered distribution, nats.
        margin: how far the best token was ahead of the next, at the closest place, as a fraction of `largest`.
        largest: the largest logit of all rows.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    margin: float
    largest: float


@torch.inference_mode()
def loop_answer(
    model: PreTrainedModel, prompts: Mapping[str, list[int]], strength: float, max_new_tokens: int
) -> LoopAnswer:
    """Greedy steered decoding as one writes it down: a forward pass over all tokens for each row, without a cache."""
    token_ids: list[int] = []
    logprobs: list[float] = []
    largest, gap = 0.0, math.inf
    while len(token_ids) < max_new_tokens and token_ids[-1:] != [END_ID]:
        rows = {}
        for row, prompt in prompts.items():
            logits = model(input_ids=torch.tensor([[*prompt, *token_ids]]), use_cache=False).logits[0, -1].double()
            largest = max(largest, float(logits[logits.abs() < _MASKED].abs().max()))
            rows[row] = _normalised(logits)  # (vocab,)
        steered = rows["instructed"] + strength * (rows["instructed"] - rows["base"])
        if "avoided" in rows:
            steered = steered - strength * (rows["avoided"] - rows["base"])
        best = _normalised(steered).topk(2)
        token_ids.append(int(best.indices[0]))
        logprobs.append(float(best.values[0]))
        gap = min(gap, float(best.values[0] - best.values[1]))
    return LoopAnswer(tuple(token_ids), tuple(logprobs), gap / largest, largest)


def _normalised(logits: Tensor) -> Tensor:
    """(vocab,) log-probabilities, by their definition."""
    shifted = logits - logits.max()
    return shifted - shifted.exp().sum().log()


def _render(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    chat = [{"role": "user", "content": text}]
    rendered: list[int] = tokenizer.apply_chat_template(  # type: ignore[assignment]
        chat, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    return rendered
