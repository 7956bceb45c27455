"""Attention of one layer in one forward pass: of many tails in one call, of shared beginnings once, of long segments.

A query that meets its keys in several parts gets one result and one logarithm of a sum of exponentials per part; the
results are averaged with weights from these, which is what one softmax over all keys would give (online softmax:
Milakov and Gimelshein 2018, arXiv 1805.02867; with shared prefixes: Juravsky et al. 2024, arXiv 2402.05099). An
attention sink is one more term of that sum, and counts once, when all parts are together.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sda_engine.decoding.forward_pass import ForwardPass
from sda_engine.decoding.reach import Reach
from sda_engine.decoding.segments import Alone, Together

_flash_on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


class Kernel:
    """Attention of one layer.

    Args:
        forward_pass: what is attended to; its keys and values of this layer have been written.
        layer: its place among those that store keys and values.
        scale: of the scores.
        reach: what a token sees.
        softcap: a tanh keeps scores within plus and minus this, as Gemma 2 has it; None for none.
        sinks: (heads,) scores of one more key per head, which takes weight and gives no value (gpt-oss, after Xiao et
            al. 2023, arXiv 2309.17453); None for none.
    """

    def __init__(
        self,
        forward_pass: ForwardPass,
        layer: int,
        scale: float,
        reach: Reach,
        softcap: float | None,
        sinks: Tensor | None,
    ) -> None:
        self._pass = forward_pass
        self._layer = layer
        self._scale = scale
        self._reach = reach
        self._softcap = softcap
        self._sinks = sinks

    def attend(self, query: Tensor, value_size: int) -> Tensor:
        """Attention of all tokens of the pass.

        Args:
            query: (heads, tokens, size).
            value_size: size of a value.

        Returns:
            (tokens, heads, value size).
        """
        together = self._pass.together
        if together is not None and together.places is None:
            return self._attend_together(together, query)
        output = query.new_empty((query.shape[1], query.shape[0], value_size))
        if together is not None:
            output[together.places] = self._attend_together(together, query)
        for alone in self._pass.alone:
            output[alone.start : alone.stop] = self._attend_alone(alone, query[:, alone.start : alone.stop])
        return output

    def _attend_together(self, together: Together, query: Tensor) -> Tensor:
        """(new tokens of these segments, heads, value size)."""
        keys, values = self._pass.tails(self._layer)
        rows, key_heads = keys.shape[:2]
        heads, _, size = query.shape
        groups = heads // key_heads
        queries = query if together.tokens is None else query[:, together.tokens]
        # heads that share keys are queries of the same keys: (rows, key heads, groups * queries, size)
        queries = queries.view(key_heads, groups, rows, together.queries, size).permute(2, 0, 1, 3, 4).flatten(2, 3)
        mask = self._pass.tail_mask(groups, self._reach, query.dtype)
        output, weight = self._parts(queries, keys, values, mask)
        for run, members in together.runs:
            visible = self._pass.visible(run, groups, self._reach, query.dtype)
            if visible is None:
                continue
            first, mask = visible
            keys, values = run.piece.layer(self._layer)
            part = queries if members is None else queries[members]
            seen, seen_weight = self._parts(
                part.transpose(0, 1).flatten(1, 2).unsqueeze(0), keys[None, :, first:], values[None, :, first:], mask
            )
            seen = seen.view(key_heads, len(part), -1, seen.shape[-1]).transpose(0, 1)
            seen_weight = seen_weight.view(key_heads, len(part), -1).transpose(0, 1)
            if members is None:
                output, weight = _merged(output, weight, seen, seen_weight)
            else:
                output[members], weight[members] = _merged(output[members], weight[members], seen, seen_weight)
        if self._sinks is not None:
            sinks = self._sinks.view(key_heads, groups, 1).expand(-1, -1, together.queries).flatten(1)
            output = _with_sinks(output, weight, sinks)
        output = output.to(query.dtype).view(rows, key_heads, groups, together.queries, -1)
        output = output.permute(0, 3, 1, 2, 4).reshape(rows * together.queries, heads, -1)
        return output if together.kept is None else output[together.kept]

    def _attend_alone(self, alone: Alone, query: Tensor) -> Tensor:
        """(tokens of the segment, heads, value size)."""
        keys, values = self._pass.own(alone, self._layer)
        if not self._is_flash(query, values):
            return self._attend_joined(alone, query)
        tokens = query.shape[1]
        is_causal = alone.own_start == alone.position and self._reach.spans(alone.position, alone.position + tokens)
        is_causal = is_causal and not alone.blocks
        mask = None if is_causal else self._pass.mask_alone(alone, alone.own_start, self._reach, query.dtype)
        queries = query.unsqueeze(0)
        output, weight = self._flash(queries, keys.unsqueeze(0), values.unsqueeze(0), mask, is_causal)
        for run in alone.runs:
            visible = self._pass.visible_alone(alone, run, self._reach, query.dtype)
            if visible is None:
                continue
            first, mask = visible
            keys, values = run.piece.layer(self._layer)
            part = self._flash(queries, keys[None, :, first:], values[None, :, first:], mask, False)
            output, weight = _merged(output, weight, *part)
        if self._sinks is not None:
            output = _with_sinks(output, weight, self._sinks.unsqueeze(-1))
        return output[0].transpose(0, 1).to(query.dtype)

    def _attend_joined(self, alone: Alone, query: Tensor) -> Tensor:
        """The same where no kernel gives weights along: over one copy of all keys."""
        parts = [run.piece.layer(self._layer) for run in alone.runs] + [self._pass.own(alone, self._layer)]
        groups = query.shape[0] // parts[0][0].shape[0]
        # each query head with keys of its own: with a mask, the fast kernels of accelerators know no other form
        keys, values = (
            torch.cat(part, dim=1).repeat_interleave(groups, dim=0).unsqueeze(0) for part in zip(*parts, strict=True)
        )
        queries = query.unsqueeze(0)
        mask = self._pass.mask_alone(alone, 0, self._reach, query.dtype)
        if self._softcap is None and self._sinks is None:
            output = scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=self._scale)
        else:
            output, weight = self._softmax(queries, keys, values, mask)
            if self._sinks is not None:
                output = _with_sinks(output, weight, self._sinks.unsqueeze(-1))
        return output[0].transpose(0, 1).to(query.dtype)

    def _parts(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Attention to some of the keys of each query, and the logarithm of the sum of exponentials of their scores.

        Args:
            query: (batch, key heads, queries, size).
            keys, values: (batch, key heads, keys, size).
            mask: is added to the scores; what it takes out must be numbers.

        Returns:
            (batch, key heads, queries, value size) and (batch, key heads, queries), in float32 at least.
        """
        if self._is_flash(query, values):
            return self._flash(query, keys, values, mask, False)
        return self._softmax(query, keys, values, mask)

    def _is_flash(self, query: Tensor, values: Tensor) -> bool:
        return query.device.type == "cpu" and self._softcap is None and query.shape[-1] == values.shape[-1]

    def _flash(
        self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, is_causal: bool
    ) -> tuple[Tensor, Tensor]:
        output, weight = _flash_on_cpu(query, keys, values, 0.0, is_causal, attn_mask=mask, scale=self._scale)
        return output.to(weight.dtype), weight

    def _softmax(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        scores = (query @ keys.transpose(-1, -2) * self._scale).to(torch.promote_types(query.dtype, torch.float32))
        if self._softcap is not None:
            scores = self._softcap * torch.tanh(scores / self._softcap)
        if mask is not None:
            scores = scores + mask
        weight = scores.logsumexp(dim=-1)
        output = (scores - weight.unsqueeze(-1)).exp().to(values.dtype) @ values
        return output.to(weight.dtype), weight


def _merged(output: Tensor, weight: Tensor, other: Tensor, other_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Attention to two sets of keys, from the attention to each: outputs (..., size), weights (...)."""
    share = torch.sigmoid(other_weight - weight).unsqueeze(-1)
    return torch.lerp(output, other, share), torch.logaddexp(weight, other_weight)


def _with_sinks(output: Tensor, weight: Tensor, sinks: Tensor) -> Tensor:
    """Attention to all keys and to a sink, which has no value: outputs (..., size), weights and sinks (...)."""
    return output * torch.sigmoid(weight - sinks).unsqueeze(-1)
