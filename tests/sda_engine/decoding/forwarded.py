"""Questions on one document, and how many tokens are forwarded for them."""

from sda_engine import Alignment, SteeringEngine
from sda_engine.testing import tiny_tokenizer

CONTEXT = "the library opens at nine and the quick brown fox is in the library " * 4
KIND = Alignment(instruction="be kind", name="kind")


class Forwarded:
    """An engine, and how many tokens its forward passes have taken in."""

    def __init__(self, engine: SteeringEngine) -> None:
        self.engine = engine
        self.tokens = 0
        self._hook = engine.model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module, args, kwargs):
        self.tokens += kwargs["input_ids"].numel()

    def of(self, *arguments, **settings):
        """A completion, and the tokens forwarded for it."""
        before = self.tokens
        done = self.engine.generate(*arguments, **settings)
        return done, self.tokens - before


def prompt_ids(messages) -> list[int]:
    """The base prompt, by transformers alone."""
    return tiny_tokenizer().apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
