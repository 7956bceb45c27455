"""One steering step for many answers: what each wants of its next token in, what came of it out, as plain numbers.

Answers of one kind (the same rows, the same temperature schedule and so on) are steered and drawn from together, where
their logits are. All that is worth knowing of all of them comes to the CPU in one transfer, so that nothing else waits
for an accelerator. Two things are known only after it, and the answers concerned go through once more: that a row holds
masked tokens which nobody had told of and, where one cannot look before, that a token was drawn from too few of the
most likely ones.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import cast

import torch
from torch import Tensor

from sda_engine.decoding.wanted import SHOWN, Chosen, Likely, Wanted
from sda_engine.prompts import AVOIDED, BASE, INSTRUCTED
from sda_engine.steering import (
    Context,
    SteeredStep,
    candidate_counts,
    draw,
    precision,
    steered_step,
    top_tokens,
)
from sda_engine.steering.precision import widest

_TIED = 8  # most likely tokens that are looked at, so that of equals the first is taken
# Bytes of one distribution of all answers that are steered at once, in float64: on a CPU they are to stay in its cache,
# elsewhere not to fill its memory.
_AT_ONCE_ON_CPU, _AT_ONCE = 2**21, 2**24


def choose(wanted: Sequence[Wanted]) -> list[Chosen | BaseException]:
    """Steer and draw for many answers at once.

    Returns:
        For each what came of it, or the error that it alone raised: in a temperature schedule of the user's, say.
    """
    results: dict[int, Chosen | BaseException] = {}
    waiting = dict(enumerate(wanted))
    while waiting:
        tables: list[_Table] = []
        for numbers in _parts(waiting):
            for came in _steered({number: waiting[number] for number in numbers}):
                if isinstance(came, _Table):
                    tables.append(came)
                else:
                    results[came.number] = came.error
        values = iter(torch.cat([table.values.flatten() for table in tables]).tolist() if tables else ())
        again: dict[int, Wanted] = {}
        for table in tables:
            for number in table.numbers:
                asked = waiting[number]
                chosen, enough = _read(values, asked, table)
                if chosen.broken and not asked.careful:
                    again[number] = replace(asked, masked=True)
                elif not enough and not chosen.broken:
                    again[number] = replace(asked, tried=asked.tried + 1)
                else:
                    results[number] = chosen
        waiting = again
    return [results[number] for number in range(len(wanted))]


@dataclass(frozen=True)
class _Table:
    """What came of a step, still where it was computed.

    Attributes:
        numbers: of the answers, one for each row.
        shown: most likely tokens of each context.
        counted: those of the steered distribution.
        values: (answers, columns), in the order in which `_read` takes them.
    """

    numbers: Sequence[int]
    shown: int
    counted: int
    values: Tensor


@dataclass(frozen=True)
class _Failure:
    """The error of a step of one answer."""

    number: int
    error: BaseException


def _parts(waiting: Mapping[int, Wanted]) -> list[list[int]]:
    """Numbers of answers of one kind, as many as are steered at once."""
    kinds: dict[Hashable, list[int]] = {}
    for number, wanted in waiting.items():
        kinds.setdefault(wanted.kind, []).append(number)
    parts = []
    for numbers in kinds.values():
        logits = waiting[numbers[0]].logits[BASE]
        most = max(1, (_AT_ONCE_ON_CPU if logits.device.type == "cpu" else _AT_ONCE) // (8 * len(logits)))
        parts += [numbers[start : start + most] for start in range(0, len(numbers), most)]
    return parts


def _steered(wanted: Mapping[int, Wanted]) -> list[_Table | _Failure]:
    """One step for answers of one kind, or else one for each: those that fail alone do not fail the others."""
    try:
        return [_step(wanted)]
    except BaseException as error:  # noqa: BLE001 - a user's schedule may raise SystemExit: not for the others
        if len(wanted) == 1:
            return [_Failure(next(iter(wanted)), error)]
    return [came for number, alone in wanted.items() for came in _steered({number: alone})]


def _step(wanted: Mapping[int, Wanted]) -> _Table:
    """Steer and draw for answers of one kind together."""
    asked = list(wanted.values())
    first = asked[0]
    given = _Parameters(asked)
    stacked = torch.stack([one.logits[name] for name in first.logits for one in asked])  # row by row of all answers
    logits = dict(zip(first.logits, torch.split(stacked, len(asked)), strict=True))
    step = steered_step(
        logits[BASE],
        logits.get(INSTRUCTED),
        strength=given.strength,
        temperature=given.temperature,
        sensitivity=given.sensitivity,
        min_temperature=given.min_temperature,
        plausibility=given.plausibility if first.steering.plausibility > 0 else 0.0,
        avoided_logits=logits.get(AVOIDED),
        avoid_strength=given.avoid_strength,
        schedule=first.schedule,
        critical_divergence=given.critical_divergence,
        critical_tokens=None if first.critical_tokens is None else _stacked([one.critical_tokens for one in asked]),
        budget=None if first.budget is None else given.budget,
        quiet_divergence=given.quiet_divergence,
        masked=first.careful,
    )
    vocab = step.steered.shape[-1]
    counted = min(vocab, max(_TIED, *(one.sampling.logprobs or 0 for one in asked)))
    token_ids, enough, best_ids = _drawn(step, asked, given, counted)
    if any(one.given is not None for one in asked):
        token_ids = torch.where(given.token_ids >= 0, given.token_ids.long(), token_ids)
    columns = [token_ids, _broken(step), enough, step.divergence, step.temperature]
    if step.position is not None and step.spent is not None:
        columns += [step.position, step.spent]
    if first.watched and first.masked:
        columns.append(step.base.logits.isfinite().sum(dim=-1))
    if first.watched and not first.greedy:
        columns += [step.drawn_entropy, step.base.entropy]
    here = token_ids.unsqueeze(-1)
    contexts = _contexts(step, first.logits)
    blocks = [*(column.unsqueeze(-1) for column in columns), step.steered.gather(-1, here) - step.log_total]
    blocks += [context.logprobs_of(here) for context in contexts.values()]
    told = [contexts[name] for name in (BASE, INSTRUCTED) if name in contexts]  # the first rows
    if shown := min(first.shown, vocab):
        best = top_tokens(stacked[: len(told) * len(asked)], shown)
        for context, values, ids in zip(told, *(torch.split(part, len(asked)) for part in best), strict=True):
            blocks += [ids, values - context.log_total]
    blocks += [best_ids, step.steered.gather(-1, best_ids) - step.log_total]
    return _Table(tuple(wanted), shown, counted, torch.cat(blocks, dim=-1))  # in the widest type of them


def _drawn(
    step: SteeredStep, asked: Sequence[Wanted], given: "_Parameters", counted: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Each row's token, whether enough of the most likely tokens were drawn from, and the `counted` likeliest ones."""
    if asked[0].greedy:
        best, ids = top_tokens(step.steered, counted)
        return _first_of_best(best, ids), torch.ones_like(ids[:, 0]), ids
    vocab = step.steered.shape[-1]
    ks = [one.sampling.top_k for one in asked if one.sampling.top_k is not None]
    most = max(ks) if ks else None
    sizes = candidate_counts(vocab, most)
    if not precision.can_look(step.steered):  # who has to wait to know tries more at once
        sizes = sizes[1:] or sizes
    for size in sizes[asked[0].tried :]:
        best, ids = top_tokens(step.steered, max(size, counted))
        place, enough = draw(
            step.drawn_logprobs(best),
            given.uniform,
            top_k=given.top_k if ks else None,
            top_p=None if asked[0].unlimited else given.top_p,
            min_p=given.min_p if any(one.sampling.min_p for one in asked) else None,
            all_tokens=best.shape[-1] == vocab,
        )
        enough = torch.ones_like(enough) if size >= min(most or vocab, vocab) else enough | step.is_greedy
        if not precision.can_look(enough) or bool(enough.all()):
            break
    drawn = ids.gather(-1, place).squeeze(-1)
    return torch.where(step.is_greedy, _first_of_best(best, ids), drawn), enough, ids[:, :counted]


def _first_of_best(best: Tensor, ids: Tensor) -> Tensor:
    """(batch,): of the most likely tokens, best first, that with the smallest id of those as likely as the first."""
    return ids.masked_fill(best < best[:, :1], torch.iinfo(ids.dtype).max).amin(dim=-1)


def _broken(step: SteeredStep) -> Tensor:
    """(batch,) bool: whether there is no distribution."""
    return (step.log_total.squeeze(-1) + step.divergence + step.temperature).isnan()


def _contexts(step: SteeredStep, names: Mapping[str, Tensor]) -> dict[str, Context]:
    """The contexts of the rows that there are, in their order."""
    contexts = {BASE: step.base, INSTRUCTED: step.instructed, AVOIDED: step.avoided}
    return {name: cast(Context, contexts[name]) for name in names}


def _stacked(values: Sequence[Tensor | None]) -> Tensor:
    return torch.stack([value for value in values if value is not None])


def _read(values: Iterator[float], asked: Wanted, table: _Table) -> tuple[Chosen, bool]:
    """One row of a table, and whether its token was drawn from enough of them."""
    token_id, broken, enough, divergence, temperature = islice(values, 5)
    position, spent = islice(values, 2) if asked.budget is not None else (None, None)
    choices = int(next(values)) if asked.watched and asked.masked else None
    entropies = (next(values), next(values)) if asked.watched and not asked.greedy else None
    logprob = next(values)
    row_logprobs = {name: next(values) for name in asked.logits}
    base = _likely(values, table.shown)
    instructed = _likely(values, table.shown) if INSTRUCTED in asked.logits else base
    steered = _likely(values, table.counted)
    chosen = Chosen(
        token_id=int(token_id),
        broken=bool(broken),
        divergence=divergence,
        temperature=temperature,
        position=position,
        spent=spent,
        logprob=logprob,
        row_logprobs=row_logprobs,
        base=base,
        instructed=instructed,
        steered=steered[: max(SHOWN, asked.sampling.logprobs or 0)],
        masked=asked.masked,
        choices=choices,
        entropies=entropies if temperature > 0 else None,
    )
    return chosen, bool(enough)


def _likely(values: Iterator[float], count: int) -> Likely:
    token_ids, logprobs = list(islice(values, count)), list(islice(values, count))
    return [(int(number), value) for number, value in zip(token_ids, logprobs, strict=True) if value > float("-inf")]


class _Parameters:
    """The numbers that may differ between answers of one kind, (answers,) each, where the logits are."""

    def __init__(self, asked: Sequence[Wanted]) -> None:
        rows = [
            (
                one.strength,
                one.avoid_strength,
                0.0 if one.budget is None else one.budget,
                one.uniform,
                1.0 if one.sampling.top_p is None else one.sampling.top_p,
                one.sampling.min_p or 0.0,
                one.sampling.temperature,
                one.steering.temperature_sensitivity,
                one.steering.min_temperature,
                one.steering.plausibility,
                one.steering.critical_divergence,
                one.quiet_divergence,
                -1.0 if one.given is None else float(one.given),
                float(one.sampling.top_k or 0),
            )
            for one in asked
        ]
        device = asked[0].logits[BASE].device
        wide = torch.tensor(list(zip(*rows, strict=True)), dtype=widest(device)).to(device)  # in one transfer
        narrow = wide.float()
        self.strength, self.avoid_strength, self.budget, self.uniform, self.top_p, self.min_p = wide[:6]
        self.temperature, self.sensitivity, self.min_temperature, self.plausibility = narrow[6:10]
        self.critical_divergence, self.quiet_divergence = narrow[10:12]
        self.token_ids, self.top_k = wide[12:]
