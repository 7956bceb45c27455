"""How an answer may go on, looked up in the text so far; a forward pass then verifies several tokens at once."""

from collections.abc import Sequence

_PRIORS = {4: 0.7, 3: 0.5, 2: 0.3}  # tokens matched, longest first: chance that a proposed token is right

# An estimate remembers the last ten or so verified tokens: a dozen wrong ones turn proposals off, and noise alone
# seldom does.
_LEARNING_RATE = 0.1
# The tries of an estimate that is too low cost at most prior * _FORGETTING_RATE / _LEARNING_RATE of all passes,
# below 1.5 percent; at a cost of 0.2 every 20th to 100th match is tried.
_FORGETTING_RATE = 0.002


class Proposer:
    """Proposes how an answer goes on: as the text so far went on after the same last tokens.

    Prompt lookup decoding (Saxena 2023, https://github.com/apoorvumang/prompt-lookup-decoding): the longest run of
    the last 4, 3 or 2 tokens that occurred before is looked up where it occurred last. How many of the tokens after
    it are worth a try is learned from how many were right, which is a deviation from the original's fixed number.
    The same calls always give the same proposals.

    Args:
        sources: the texts to look in, as token ids. The last one is the prompt, which the answer goes on from; of
            two equally long matches, the one in the later text counts as the more recent.
        most: at most so many tokens are proposed; 0 turns proposals off.
        cost: what one more proposed token adds to a forward pass, as a fraction of a pass without proposals.
    """

    def __init__(self, sources: Sequence[Sequence[int]], *, most: int, cost: float) -> None:
        assert sources, "the prompt is missing"
        assert most >= 0, most
        assert cost >= 0, cost
        self._texts = [_Text(source if most else ()) for source in sources]
        self._most = most
        self._cost = cost
        self._chances = dict(_PRIORS)
        self._matched = 0  # tokens matched by the last proposal
        self._untested = 0  # tokens of the last proposal that nothing was learned from yet

    def append(self, token_id: int) -> None:
        """Takes a token that the answer went on with."""
        if self._most:
            self._texts[-1].append(token_id)

    def propose(self, most: int | None = None) -> list[int]:
        """The tokens that may come next; none where nothing matches or a try would not pay.

        Args:
            most: lowers the limit for this pass.
        """
        limit = self._most if most is None else min(most, self._most)
        if limit <= 0:
            return []
        for matched in self._texts[-1].last_runs():
            if following := self._following(matched, limit):
                return self._that_pays(following, len(matched))
        return []

    def learn(self, accepted: int) -> None:
        """Takes how many tokens of the last proposal that was not empty were right; once for each proposal."""
        assert 0 <= accepted <= self._untested, (accepted, self._untested)
        for _ in range(accepted):
            self._move_chance(self._matched, 1.0, _LEARNING_RATE)
        if accepted < self._untested:  # the ones after the first wrong one were never tested
            self._move_chance(self._matched, 0.0, _LEARNING_RATE)
        self._untested = 0

    def _following(self, run: tuple[int, ...], limit: int) -> list[int]:
        return next((found for text in reversed(self._texts) if (found := text.after(run, limit))), [])

    def _that_pays(self, following: list[int], matched: int) -> list[int]:
        count = count_that_pays(self._chances[matched], self._cost, limit=len(following))
        if count:
            self._matched, self._untested = matched, count
        else:
            self._move_chance(matched, _PRIORS[matched], _FORGETTING_RATE)
        return following[:count]

    def _move_chance(self, matched: int, target: float, rate: float) -> None:
        self._chances[matched] += rate * (target - self._chances[matched])


def count_that_pays(chance: float, cost: float, *, limit: int) -> int:
    """How many proposed tokens, 0 to `limit`, make a forward pass give the most tokens for its cost.

    With chance p and cost c, n tokens give (1 + p + ... + p^n) / (1 + c n) tokens for the cost of a plain pass.

    Args:
        chance: that a proposed token is right if the ones before it were, in [0, 1].
        cost: what one proposed token adds to a pass, as a fraction of a plain pass.
        limit: the most that may be proposed.
    """
    expected = 1.0
    for count in range(limit):
        one_more = expected + chance ** (count + 1)
        # each token adds less than the one before: once one does not pay, none after it does
        if one_more * (1 + cost * count) <= expected * (1 + cost * (count + 1)):
            return count
        expected = one_more
    return limit


class _Text:
    """A growing text, and where each run of 2 to 4 of its tokens was last followed by another token."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        self._ids = list(token_ids)
        self._places: dict[tuple[int, ...], int] = {}
        for size in _PRIORS:
            runs = zip(*(self._ids[start:] for start in range(size)), strict=False)
            self._places.update(zip(runs, range(size, len(self._ids)), strict=False))

    def append(self, token_id: int) -> None:
        for run in self.last_runs():
            self._places[run] = len(self._ids)
        self._ids.append(token_id)

    def last_runs(self) -> list[tuple[int, ...]]:
        """The last 4, 3 and 2 tokens, as far as there are so many."""
        return [tuple(self._ids[-size:]) for size in _PRIORS if size <= len(self._ids)]

    def after(self, run: tuple[int, ...], limit: int) -> list[int]:
        """Up to `limit` tokens that last followed the run; none where it never was followed."""
        place = self._places.get(run, len(self._ids))
        return self._ids[place : place + limit]
