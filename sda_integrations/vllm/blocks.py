"""KVBlocks: how many blocks of vLLM's cache of keys and values sequences need, exactly."""

from collections.abc import Iterable, Sequence
from math import gcd
from typing import Any

from vllm.utils.math_utils import cdiv
from vllm.v1.request import Request

from sda_engine.errors import CapacityError


class KVBlocks:
    """Counts blocks for layers of full and of sliding-window attention.

    A model may have several kinds of layers. Each has a manager of its own, and all take their blocks from one pool.

    Args:
        manager: the scheduler's KVCacheManager.
    """

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._pool = manager.block_pool
        managers = manager.coordinator.single_type_managers
        self._sizes = [(one.block_size, one.max_admission_blocks_per_request) for one in managers]
        self._grain = gcd(*(size for size, _ in self._sizes))
        self.capacity: int = self._pool.num_gpu_blocks - 1 - manager.watermark_blocks
        """Blocks that rows may hold together: one is vLLM's own, and some may have to stay free."""

    def free(self) -> int:
        """Blocks that can be had now; those that only the prefix cache still holds are among them."""
        return int(self._pool.get_num_free_blocks())

    def for_tokens(self, tokens: int) -> int:
        """Blocks that a sequence of so many tokens holds at most."""
        return sum(cdiv(tokens, size) if most is None else min(cdiv(tokens, size), most) for size, most in self._sizes)

    def for_next_tokens(self, requests: Iterable[Request]) -> int:
        """Blocks that sequences that run must have in addition for one more token of each."""
        at_edge = [one.num_computed_tokens for one in requests if one.num_computed_tokens % self._grain == 0]
        return sum(computed % size == 0 for computed in at_edge for size, _ in self._sizes)

    def can_admit(self, rows: Sequence[Request], *, others_run: bool) -> bool:
        """Whether all that rows have to read fits into the free blocks.

        Looks into the prefix cache only if it has to: that takes time for long prompts.
        """
        room = self.free() - (self._manager.watermark_blocks if others_run else 0)
        if sum(self.for_tokens(row.num_tokens) for row in rows) <= room:
            return True
        return sum(self._with_cached_prefix(row) for row in rows) <= room

    def _with_cached_prefix(self, row: Request) -> int:
        """Blocks that a row takes out of the free ones, given what others hold of its prefix."""
        blocks, cached, _ = self._manager.get_computed_blocks(row)
        return int(
            self._manager.coordinator.get_num_blocks_to_allocate(
                request_id=row.request_id,
                num_tokens=row.num_tokens,
                new_computed_blocks=blocks.blocks,
                num_encoder_tokens=0,
                total_computed_tokens=cached,
                num_local_computed_tokens=cached,
                num_tokens_main_model=row.num_tokens,
                apply_admission_cap=True,
            )
        )

    def longest_answer(self, prompts: Sequence[int], most: int) -> int:
        """How many tokens a group may answer, so that all its rows fit into the cache when it runs alone.

        A group could otherwise wait for ever for blocks that only it holds.

        Args:
            prompts: tokens of the prompt of each row.
            most: what it may answer at most for other reasons.

        Raises:
            CapacityError: not even one token fits.
        """
        least = self._held(prompts, 1)
        if least > self.capacity:
            raise CapacityError(
                f"The rows of the group need {least} blocks of the KV cache, which has {self.capacity}: shorten the "
                "prompts, or give vLLM more memory (--gpu-memory-utilization)."
            )
        fits, too_long = 1, most + 1
        while too_long - fits > 1:
            middle = (fits + too_long) // 2
            if self._held(prompts, middle) <= self.capacity:
                fits = middle
            else:
                too_long = middle
        return fits

    def _held(self, prompts: Sequence[int], answered: int) -> int:
        """Blocks of a group in its last step; the last token of an answer is never read, and has no place."""
        return sum(self.for_tokens(prompt + answered - 1) for prompt in prompts)
