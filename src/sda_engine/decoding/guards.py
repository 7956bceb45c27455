"""Failure signs of strong steering, looked for while an answer grows: it repeats itself, or its distribution collapses.

Repetition is a loop (the last tokens are one sequence at least three times over) or many repeated 4-grams in a window.
Collapse is a window of sampled tokens about which hardly anything was left to chance, although the base context had
more than one idea of how to go on. Both judge chosen tokens alone; what a grammar forces is to be left out, or any
JSON would be a loop. The thresholds were measured with SmolLM2-135M, see the constants.

Repetition is no sign of steering alone: a small model that decodes greedily repeats itself unsteered, too. On 20
prompts that no threshold was set on, SmolLM2-135M showed it in 4, 2, 1 and 0 greedy answers of 96 tokens at strength 0,
1, 2 and 4, and in 0, 0, 0 and 2 sampled ones; a collapse in none. As many answers repeated themselves again where the
strength was halved as where it was not (`benchmarks/guards.py`): a sign is a report, and relaxing is no cure for it.
"""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from sda_engine.results import WarningKind

MAX_PERIOD = 64  # tokens of the longest sequence whose repetition is recognised as a loop
MIN_REPEATS = 3
MIN_LOOP = 24  # tokens that a loop covers at least: shorter ones are refrains, rows of dots and the like
GRAM = 4
GRAM_WINDOW = 64  # 4-grams
MAX_REPEATED_GRAMS = 0.5  # dialogues and prompts written by people stay below 0.35, lists of paraphrases may reach 0.55
COLLAPSE_WINDOW = 48  # sampled tokens
MAX_COLLAPSED_ENTROPY = 0.1  # nats, mean over the window; at temperature 0.6 and strength 0 it was at least 0.58
MIN_BASE_ENTROPY = 1.0  # nats at temperature 1, mean over the window


@dataclass(frozen=True, slots=True)
class Finding:
    """A failure sign.

    Attributes:
        kind: "repetition" or "collapse".
        detail: what was seen, with figures.
    """

    kind: WarningKind
    detail: str


class Guard:
    """Watches one answer. After a finding it starts afresh, so that what follows is judged by itself."""

    def __init__(self) -> None:
        self._start()

    def watch(self, token_id: int, entropies: tuple[float, float] | None) -> Finding | None:
        """Look at the token that was chosen.

        Args:
            token_id: the token.
            entropies: nats, of the distribution that it was drawn from and of the base context; None for a token that
                is the most likely one by intention (temperature 0), which leaves nothing to chance.

        Returns:
            What there is to say about the answer up to and including this token; None for nothing.
        """
        finding = self._look(token_id, entropies)
        if finding is not None:
            self._start()
        return finding

    def _start(self) -> None:
        self._loop, self._grams, self._collapse = LoopDetector(), GramDetector(), CollapseDetector()

    def _look(self, token_id: int, entropies: tuple[float, float] | None) -> Finding | None:
        loop, grams = self._loop.push(token_id), self._grams.push(token_id)
        if repetition := loop or grams:
            return Finding("repetition", repetition)
        if entropies is None:
            return None
        collapse = self._collapse.push(*entropies)
        return None if collapse is None else Finding("collapse", collapse)


def find_repetition(token_ids: Sequence[int]) -> str | None:
    """What repeats in a text, as the guard would have said first; None where nothing does."""
    loop, grams = LoopDetector(), GramDetector()
    for token_id in token_ids:
        found = loop.push(token_id), grams.push(token_id)
        if any(found):
            return found[0] or found[1]
    return None


class LoopDetector:
    """Finds a sequence of at most MAX_PERIOD tokens that has come MIN_REPEATS times in a row, over MIN_LOOP tokens."""

    def __init__(self) -> None:
        self._tokens: deque[int] = deque(maxlen=MAX_PERIOD)  # the latest first
        self._same = [0] * MAX_PERIOD  # for each period, how many of the last tokens are what came one period before

    def push(self, token_id: int) -> str | None:
        """Take the next token; says what repeats, if anything does."""
        found = None
        for place, earlier in enumerate(self._tokens):
            self._same[place] = self._same[place] + 1 if earlier == token_id else 0
            period = place + 1
            covered = self._same[place] + period
            if found is None and covered >= max(MIN_LOOP, MIN_REPEATS * period):
                found = f"the last {covered} chosen tokens repeat {_tokens(period)}"
        self._tokens.appendleft(token_id)
        return found


class GramDetector:
    """Finds a window of GRAM_WINDOW 4-grams, of which at least MAX_REPEATED_GRAMS have come before in the window."""

    def __init__(self) -> None:
        self._tail: deque[int] = deque(maxlen=GRAM)
        self._window: deque[tuple[int, ...]] = deque()
        self._counts: Counter[tuple[int, ...]] = Counter()

    def push(self, token_id: int) -> str | None:
        """Take the next token; says how much repeats, if it is much."""
        self._tail.append(token_id)
        if len(self._tail) < GRAM:
            return None
        self._window.append(tuple(self._tail))
        self._counts[self._window[-1]] += 1
        if len(self._window) > GRAM_WINDOW:
            oldest = self._window.popleft()
            self._counts[oldest] -= 1
            if not self._counts[oldest]:
                del self._counts[oldest]
        share = 1 - len(self._counts) / GRAM_WINDOW
        if len(self._window) < GRAM_WINDOW or share < MAX_REPEATED_GRAMS:
            return None
        return f"{share:.0%} of the last {GRAM_WINDOW} {GRAM}-grams of chosen tokens repeat earlier ones among them"


class CollapseDetector:
    """Finds a window of COLLAPSE_WINDOW sampled tokens without chance, where the base context would have left some."""

    def __init__(self) -> None:
        self._sampled: deque[float] = deque(maxlen=COLLAPSE_WINDOW)
        self._base: deque[float] = deque(maxlen=COLLAPSE_WINDOW)

    def push(self, sampled_entropy: float, base_entropy: float) -> str | None:
        """Take the entropies, nats, of the next sampled and base distribution; says how low they are, if too low."""
        self._sampled.append(sampled_entropy)
        self._base.append(base_entropy)
        if len(self._sampled) < COLLAPSE_WINDOW:
            return None
        sampled, base = sum(self._sampled) / COLLAPSE_WINDOW, sum(self._base) / COLLAPSE_WINDOW
        if sampled > MAX_COLLAPSED_ENTROPY or base < MIN_BASE_ENTROPY:
            return None
        return (
            f"the distribution sampled from has {sampled:.3f} nats of entropy on average over the last "
            f"{COLLAPSE_WINDOW} sampled tokens, the base context {base:.2f}"
        )


def _tokens(count: int) -> str:
    return "one token" if count == 1 else f"a sequence of {count} tokens"
