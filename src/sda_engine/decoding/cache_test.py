"""A check, when an engine is made, of what a model is right about on its own cache.

Not every model goes on from its cache as if it had read the whole text: some are wrong about several tokens that come
behind others, some about padding. So every model shows on two short texts, against its own passes without any cache,
what it can do. The first text is longer than each threshold that the configuration names, as far as that is cheap.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import ceil, inf
from statistics import mean

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from sda_engine.decoding.cache_pass import CachePass, Ways, no_own_cache
from sda_engine.decoding.cache_rows import CacheMemory, CacheState
from sda_engine.decoding.caches import can_be_joined, nbytes
from sda_engine.decoding.rows import Row
from sda_engine.decoding.segments import Segment
from sda_engine.decoding.self_test import LARGEST, Footprint, affordable_tokens, make_text
from sda_engine.decoding.states import StateCost

_PROMPTS = (11, 6)  # tokens
_ANSWER = 4  # tokens, one by one
_THRESHOLDS = (
    "attention_chunk_size",
    "floor_scale",
    "index_topk",
    "indexer_budget",
    "log_scaling_n_floor",
    "original_max_position_embeddings",
    "sliding_window",
    "window_size",
)
_EXACT = (torch.float32, torch.float64)
_TOLERANCE = 1e-3  # of the largest logit, for the worst of all tokens
_ROUGH_TOLERANCE = 0.1  # on average, in dtypes of eight to eleven bits, where single tokens may see other experts
_TIMES_AS_ROUGH, _LEAST_ROUGH = 2.0, 0.01  # on average, for what a model need not be right about
_IN_CACHE_ALONE = "reference_sliding_attention"
_COUNT_PADDING = ("attn_temperature_tuning", "log_scaling_n_floor")  # such layers count what is in the cache
_FAILURES = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)

Forward = Callable[[Sequence[Segment], Ways], list[Tensor]]


def check_own_cache(model: PreTrainedModel) -> None:
    """Refuse a model of which it is known beforehand that it is wrong on its own cache.

    Raises:
        ModelLoadError: it is an encoder, or its cache leaves out what is part of the text.
    """
    config = model.config.get_text_config(decoder=True)
    if model.config.is_encoder_decoder:
        raise no_own_cache(model, "an encoder beside the decoder")
    if _IN_CACHE_ALONE in (getattr(config, "layer_types", None) or ()):
        raise no_own_cache(model, "a window that is in their cache alone, over what they have written and not read")


def find_ways(model: PreTrainedModel, cache_pass: CachePass, forward: Forward) -> tuple[Ways, Footprint]:
    """What a model is right about, and what its rows take.

    Args:
        model: the model.
        cache_pass: how it is called.
        forward: runs a pass over segments in given ways.

    Raises:
        ModelLoadError: it is wrong even about a whole prompt followed by single tokens, or attends to what follows.
    """
    trial = _Trial(model, forward)
    ways = next((ways for ways in (Ways(), Ways(shares=False)) if trial.is_right(trial.goes_on, ways)), None)
    if ways is None:
        reason = f" ({_first_line(trial.error)})" if trial.error else ""
        raise no_own_cache(model, f"a cache with which they do not go on as they do without one{reason}")
    footprint = trial.footprint(ways)
    if trial.is_right(trial.reads_pieces, with_pieces := replace(ways, pieces=True)):
        ways = with_pieces
    if (
        cache_pass.takes_mask
        and trial.can_be_joined
        and trial.is_right(trial.joins, joined := replace(ways, joins=True))
    ):
        ways = joined
    return ways, footprint


class _Trial:
    """Two texts, and what the model says of them without a cache.

    Attributes:
        error: what the last thing that it tried failed with.
        can_be_joined: whether caches of rows can be joined, as far as their layers tell.
    """

    def __init__(self, model: PreTrainedModel, forward: Forward) -> None:
        self._forward = forward
        self._prompts = _prompts(model)
        config = model.config.get_text_config(decoder=True)
        self._texts = [_text(config, length + _ANSWER, start) for start, length in enumerate(self._prompts)]
        try:
            self._truths = [_own_logits(model, text) for text in self._texts]
            before = _own_logits(model, self._texts[0][:-1])
        except _FAILURES as error:
            raise no_own_cache(
                model, f"a forward pass that fails even without a cache ({_first_line(error)})"
            ) from error
        self._is_exact = model.dtype in _EXACT
        self._tolerance = _TOLERANCE if self._is_exact else _ROUGH_TOLERANCE
        if _deviation(before, self._truths[0][:-1]) > self._tolerance:
            raise no_own_cache(model, "attention to tokens that follow, as encoders have it")
        self.error: Exception | None = None
        self.can_be_joined = False
        self._counts_padding = any(getattr(config, name, None) for name in _COUNT_PADDING)

    def is_right(self, attempt: Callable[[Ways], Iterator[float]], ways: Ways) -> bool:
        """Whether the model says what it says without a cache; first `goes_on`, which shows how rough its dtype is."""
        self.error = None
        try:
            deviations = list(attempt(ways))
        except _FAILURES as error:
            self.error = error
            return False
        found = max(deviations) if self._is_exact else mean(deviations)
        if found > self._tolerance:
            return False
        if attempt == self.goes_on and not self._is_exact:
            self._tolerance = min(self._tolerance, max(_TIMES_AS_ROUGH * found, _LEAST_ROUGH))
        return True

    def goes_on(self, ways: Ways) -> Iterator[float]:
        """A whole prompt and single tokens behind it, twice, while another row goes on otherwise from the prompt."""
        for row, text, prompt, truth in self._rows():
            yield self._deviation(row, text[:prompt], truth, ways)
            row.keep_state()
            other = row.fork(prompt)
            for _ in range(2):
                row.truncate(prompt)
                for token_id, another in zip(text[prompt:], text, strict=False):
                    yield self._deviation(row, [token_id], truth, ways)
                    self._forward([Segment(other, [another])], ways)
            state = row.state
            joinable = isinstance(state, CacheState) and can_be_joined(state.batch.cache)
            self.can_be_joined = joinable and not self._counts_padding

    def reads_pieces(self, ways: Ways) -> Iterator[float]:
        """Pieces of several tokens, behind few and behind many."""
        for row, text, prompt, truth in self._rows():
            for stop in (prompt // 2, prompt // 2 + 1, prompt, len(text)):
                yield self._deviation(row, text[row.length : stop], truth, ways)

    def joins(self, ways: Ways) -> Iterator[float]:
        """Rows together, one of them apart for a token, and together again."""
        rows = list(self._rows())
        for row, text, prompt, truth in rows:
            yield self._deviation(row, text[:prompt], truth, ways)
        for members in (rows, rows, rows[:1], rows[1:], rows):
            segments = [Segment(row, [text[row.length]]) for row, text, _, _ in members]
            for (row, _, _, truth), last in zip(members, self._forward(segments, ways), strict=True):
                yield _deviation(last.float().cpu(), truth[row.length - 1 : row.length])

    def footprint(self, ways: Ways) -> Footprint:
        """What rows take, by the shorter text: what a window leaves out later is counted all the same."""
        *_, (row, text, prompt, _) = self._rows()
        sizes = []
        for stop in (prompt, len(text)):
            self._forward([Segment(row, text[row.length : stop])], ways)
            assert isinstance(row.state, CacheState), "it holds tokens"
            sizes.append(nbytes(row.state.batch.cache))
        token = ceil((sizes[1] - sizes[0]) / _ANSWER)
        return Footprint(token, max(0, sizes[0] - prompt * token))

    def _rows(self) -> Iterator[tuple[Row, Sequence[int], int, Tensor]]:
        memory = CacheMemory(StateCost(), takes_pieces=True)
        for text, prompt, truth in zip(self._texts, self._prompts, self._truths, strict=True):
            yield memory.new_row(), text, prompt, truth

    def _deviation(self, row: Row, token_ids: Sequence[int], truth: Tensor, ways: Ways) -> float:
        """How far the logits are from the truth once a row has read on."""
        (logits,) = self._forward([Segment(row, token_ids, keep=len(token_ids))], ways)
        return _deviation(logits.float().cpu(), truth[row.length - len(token_ids) : row.length])


def _prompts(model: PreTrainedModel) -> tuple[int, ...]:
    """Tokens of each prompt."""
    config = model.config.get_text_config(decoder=True)
    most = affordable_tokens(model) - _ANSWER
    named = [getattr(config, name, None) for name in _THRESHOLDS]
    cheap = [number + 2 for number in named if isinstance(number, int) and number + 2 <= most]
    return max(_PROMPTS[0], *cheap, 0), *_PROMPTS[1:]


def _text(config: PreTrainedConfig, length: int, start: int) -> list[int]:
    """Token ids from all over the vocabulary, the padding id among them: chats may hold it, and some models skip it."""
    token_ids = make_text(config.vocab_size, length, start)
    padding = getattr(config, "pad_token_id", None)
    if isinstance(padding, int) and 0 <= padding < config.vocab_size:
        token_ids[2] = padding
    return token_ids


def _own_logits(model: PreTrainedModel, text: Sequence[int]) -> Tensor:
    """(tokens, vocab) float32, on the CPU: what the model says after each token, without a cache."""
    output = model(input_ids=torch.tensor([text], device=model.device), use_cache=False)
    logits: Tensor = output.logits[0]
    return logits.float().cpu()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _deviation(logits: Tensor, truth: Tensor) -> float:
    """The largest difference, as a fraction of the largest logit; what is no number in the truth is left aside."""
    numbers = truth.abs() < LARGEST  # broken weights are for the request that meets them to report
    if not bool(numbers.any()):
        return 0.0
    difference = (logits - truth)[numbers].abs().max()
    return float(difference / truth[numbers].abs().max()) if bool(difference.isfinite()) else inf
