"""Forward passes of a model on a cache that it makes itself."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sda_engine.decoding.architecture import ANOTHER_TYPE
from sda_engine.decoding.cache_rows import CacheBatch
from sda_engine.errors import ModelLoadError

_CACHE_NAMES = ("cache_params", "past_key_values")
_NO_CACHE = "no cache that a later pass could go on from"


@dataclass(frozen=True)
class Ways:
    """What a model is right about.

    Attributes:
        shares: passes on copies of caches that share tensors with them; else everything is copied.
        pieces: several tokens at once behind others.
        joins: rows of different lengths in one batch.
    """

    shares: bool = True
    pieces: bool = False
    joins: bool = False


class CachePass:
    """How a model is called.

    Raises:
        ModelLoadError: it takes no cache.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._names = set(inspect.signature(model.forward).parameters)
        name = next((name for name in _CACHE_NAMES if name in self._names), None)
        if name is None:
            raise no_own_cache(model, _NO_CACHE)
        self._cache_name = name
        self.takes_mask = "attention_mask" in self._names

    def run(
        self,
        model: PreTrainedModel,
        token_ids: Sequence[Sequence[int]],
        batch: CacheBatch | None,
        *,
        keep: int,
    ) -> tuple[Tensor, CacheBatch]:
        """One pass.

        Args:
            model: the model that this was made for.
            token_ids: as many of each row.
            batch: what the rows hold, which is changed; None where they hold nothing.
            keep: the logits after the last so many tokens are wanted.

        Returns:
            (rows, keep, vocab), and what the rows hold now.

        Raises:
            ModelLoadError: no cache came out of it.
        """
        new, device = len(token_ids[0]), model.device
        lengths, width = ((0,) * len(token_ids), 0) if batch is None else (batch.lengths, batch.width)
        options: dict[str, object] = {self._cache_name: None if batch is None else batch.cache, "use_cache": True}
        if "position_ids" in self._names:
            places = [list(range(length, length + new)) for length in lengths]
            options["position_ids"] = torch.tensor(places, device=device)
        if batch is not None and batch.is_padded:
            padding = torch.tensor([[width - length] for length in lengths])
            options["attention_mask"] = (torch.arange(width + new) >= padding).long().to(device)  # (rows, tokens)
        if "logits_to_keep" in self._names:
            options["logits_to_keep"] = torch.arange(new - keep, new, device=device)
        output = model(input_ids=torch.tensor(token_ids, device=device), **options)
        cache = getattr(output, self._cache_name, None)
        if cache is None:
            raise no_own_cache(model, _NO_CACHE)
        logits = cast(Tensor, output.logits)[:, -keep:]  # some models do not know `logits_to_keep`
        return logits, CacheBatch(cache, tuple(length + new for length in lengths), width + new)


def no_own_cache(model: PreTrainedModel, reason: str) -> ModelLoadError:
    """The error for a model that would be wrong on its own cache.

    Args:
        reason: what such models have, in a few words.
    """
    return ModelLoadError(
        f"Models of type {model.config.model_type!r} have {reason}, and the engine cannot decode rows of them on the "
        f"model's own cache. {ANOTHER_TYPE}",
        reason=reason,
    )
