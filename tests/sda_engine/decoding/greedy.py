"""A task of the smallest kind: it takes the likeliest token a number of times, and logs what happens to it."""

import torch

from sda_engine.decoding.prompt_state import PromptState
from sda_engine.decoding.row_group import DecodedToken
from sda_engine.decoding.segments import Segment
from sda_engine.decoding.tasks import Task, Token
from sda_engine.prompts import AVOIDED, BASE, INSTRUCTED, Contexts
from sda_engine.results.completion import Delta

ROWS = (BASE, INSTRUCTED, AVOIDED)
POISON = 319  # a token that no text has


def make_contexts(shared=3, tails=(2,), start=0):
    """Prompts with so many shared tokens, and a tail of so many for each row."""

    def text(length, offset):
        return tuple(3 + (31 * start + 7 * offset + 11 * place + place * place) % 197 for place in range(length))

    rows = zip(ROWS[: len(tails)], tails, strict=True)
    return Contexts(text(shared, 0), {name: text(length, row) for row, (name, length) in enumerate(rows, start=1)})


def make_prompt(shared=3, tails=(2,), start=0, max_new_tokens=8):
    return PromptState(make_contexts(shared, tails, start), max_new_tokens)


class Greedy(Task):
    """Feeds each row the token that the rows together find likeliest.

    Args:
        gate: the worker waits there once the prompts are complete.
        error: raised in place of the second token.
        poisoned: feeds POISON in place of the second token.
        keeps_prompt: whether the rows stay for another task.
    """

    def __init__(
        self,
        name="task",
        log=None,
        *,
        steps=3,
        prompt=None,
        gate=None,
        error=None,
        poisoned=False,
        keeps_prompt=False,
        continues=False,
    ):
        prompt = prompt or make_prompt(max_new_tokens=steps)
        super().__init__(prompt, tuple(prompt.contexts.tails), continues=continues)
        self.name, self.log, self.steps = name, [] if log is None else log, steps
        self.gate, self.error, self.poisoned, self.keeps_prompt = gate, error, poisoned, keeps_prompt
        self.tokens = []
        self._fed = 0  # of these tokens
        self.proposals = []  # how many it was allowed in each pass

    def finish(self, store):
        self.log.append((self.name, "cancelled" if self.cancelled else "finished"))
        if not self.keeps_prompt or self.cancelled:
            for row in self._rows:
                store.insert(row.token_ids, row.cut)
            self.let_go()
        self._rows = []

    def _begin(self):
        self.log.append((self.name, "begin"))
        if self.gate is not None:
            assert self.gate.wait(10)
        self._rows = self.prompt.rows(self.row_names)
        return self._choose(self.prompt.last_logits(self.row_names))

    def _begin_again(self):
        self.log.append((self.name, "begin again"))
        self._rows = self.prompt.rows(self.row_names)
        self._fed = 0
        return False

    def _plan(self, limits):
        if self.error is not None:
            raise self.error
        self.proposals.append(limits.proposals)
        new, self._fed = self.tokens[self._fed :], len(self.tokens)
        return [Segment(row, [POISON] if self.poisoned else new) for row in self._rows]

    def _take(self, logits):
        return bool(logits) and self._choose(torch.stack(list(logits)))

    def _choose(self, logits):
        token_id = int(logits[:, -1, :POISON].mean(0).argmax())
        self.tokens.append(token_id)
        self.log.append((self.name, "token"))
        self.emit(Token(DecodedToken(token_id, Delta(), None, (), ())))
        return len(self.tokens) == self.steps


@torch.inference_mode()
def greedy_alone(model, contexts, steps):
    """The same tokens by transformers alone."""
    texts = [[*contexts.shared, *tail] for tail in contexts.tails.values()]
    tokens = []
    for _ in range(steps):
        last = [model(input_ids=torch.tensor([[*text, *tokens]]), use_cache=False).logits[0, -1] for text in texts]
        tokens.append(int(torch.stack(last)[:, :POISON].mean(0).argmax()))
    return tokens
