"""GroupSteps: one step of decoding for all groups whose rows are in vLLM's batch. Knows of tensors, not of vLLM."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from sda_engine.decoding.mixing import mixed_rows
from sda_engine.decoding.row_group import Choice, RowGroup
from sda_engine.decoding.step_batch import choose
from sda_engine.decoding.wanted import Chosen, Wanted
from sda_engine.errors import NumericalError
from sda_engine.tokens import SafeTokenizer, TokenCategories
from sda_integrations.vllm.payload import GroupSettings, Membership
from sda_integrations.vllm.reports import Cells, Failure, failure_cells, report_cells

_logger = logging.getLogger(__name__)

_UNKNOWN = -1  # what vLLM puts in place of a token that it does not know yet
_IN_FLIGHT = 4  # steps that vLLM may have to do again, at most

Choosing = Generator[Sequence[Wanted], Sequence[Chosen], None]


@dataclass(frozen=True)
class PresentRow:
    """A row of a group in the batch.

    Attributes:
        row: its place there.
        member: the group, and which row of it this is.
        position: how many tokens the answer has so far.
        output: these tokens; None where they are not at hand.
    """

    row: int
    member: Membership
    position: int
    output: Sequence[int] | None


class LostError(Exception):
    """A group is at a place of its answer that is not known here."""


_FAILURES: Mapping[type[BaseException], Failure] = {
    NumericalError: Failure.NO_DISTRIBUTION,
    LostError: Failure.LOST,
}


class Group:
    """The answer of one group, as far as a worker has to know it.

    A choice is taken for good when the group is seen one token further. Until then it may be made anew: vLLM throws the
    sample of a prompt away that is read in parts, and decodes again what it preempted.
    """

    def __init__(self, member: Membership, tokenizer: SafeTokenizer, categories: TokenCategories) -> None:
        self._settings = settings = member.settings
        steering = settings.step_steering()
        self._rows = RowGroup(settings.decode_settings(categories.mask(steering.critical_categories)), tokenizer)
        self._choice: Choice | None = None
        self._told: OrderedDict[int, Cells] = OrderedDict()  # position -> its row, of the last ones

    def catch_up(self, position: int, output: Sequence[int] | None) -> Cells | None:
        """Take the last choice for good, if vLLM has taken it; the row of a place that was passed, if this is one.

        Raises:
            LostError: the answer stands elsewhere.
        """
        tokens = self._rows.token_ids
        if position == len(tokens) + 1 and self._choice is not None:
            token_id = self._choice.chosen.token_id
            if output and output[-1] not in (token_id, _UNKNOWN):
                raise LostError(f"{output[-1]} stands where {token_id} was drawn")
            if self._rows.due() == token_id:
                self._rows.take(self._choice.chosen)
            else:
                self._rows.accept(self._choice)
            self._choice = None
        if position < len(tokens) and position in self._told:
            return self._told[position]
        if position != len(tokens):
            raise LostError(f"the answer has {position} tokens, and {len(tokens)} are known")
        return None

    def choose(self, logits: Sequence[Tensor]) -> Generator[Sequence[Wanted], Sequence[Chosen], None]:
        """Choose the next token, for as long as none is taken for good; see `RowGroup.choose`."""
        if self._settings.masked:
            masked = logits[0] == -torch.inf
            logits = [logits[0], *(values.masked_fill(masked, -torch.inf) for values in logits[1:])]
        due = self._rows.due()
        if due is None:
            self._choice = yield from self._rows.choose(logits)
        else:
            self._choice = Choice(_forced(due, self._settings))

    def cells(self) -> Cells:
        """The row that tells of the choice."""
        assert self._choice is not None, "it was made"
        cells = report_cells(self._choice.chosen, self._settings.top)
        self._told[len(self._rows.token_ids)] = cells
        if len(self._told) > _IN_FLIGHT:
            self._told.popitem(last=False)
        return cells


class GroupSteps:
    """Steers and draws for groups, of which it keeps the state from step to step.

    Args:
        load: gives the tokenizer and its categories, once they are needed.
        kept: how many groups are kept that are not in the batch. Those that were aborted are among them, since nobody
            tells, and those that were preempted, of which there are never more than sequences that run.
    """

    def __init__(self, load: Callable[[], tuple[SafeTokenizer, TokenCategories]], kept: int) -> None:
        self._load = load
        self._loaded: tuple[SafeTokenizer, TokenCategories] | None = None
        self._kept = kept
        self._groups: OrderedDict[str, Group] = OrderedDict()

    def steer(self, logits: Tensor, present: Sequence[PresentRow]) -> None:
        """Draw a token for each group all of whose rows are present, and leave its rows so that it alone can be taken.

        Args:
            logits: (rows, vocab), changed in place.
        """
        by_group: dict[str, list[PresentRow]] = {}
        for one in present:
            by_group.setdefault(one.member.group, []).append(one)
        whole = {
            name: sorted(rows, key=lambda one: one.member.place)
            for name, rows in by_group.items()
            if len(rows) == len(rows[0].member.settings.rows)
        }
        rows, columns, values = [], [], []
        for name, cells in self._cells(logits, whole).items():
            for number, one in enumerate(whole[name]):
                told = cells if number == 0 else ([cells[0][0]], [0.0])  # nobody sees the other rows
                rows += [one.row] * len(told[0])
                columns += told[0]
                values += told[1]
        if not rows:
            return
        where = torch.tensor([rows, columns], device=logits.device)
        logits.index_fill_(0, torch.tensor(list(dict.fromkeys(rows)), device=logits.device), -torch.inf)
        logits[where[0], where[1]] = torch.tensor(values, dtype=logits.dtype, device=logits.device)

    def _cells(self, logits: Tensor, whole: Mapping[str, Sequence[PresentRow]]) -> dict[str, Cells]:
        """The first row of each group."""
        told: dict[str, Cells] = {}
        choosing: dict[str, Choosing] = {}
        for name, rows in whole.items():
            try:
                group = self._group(rows[0].member)
                if (cells := group.catch_up(rows[0].position, rows[0].output)) is not None:
                    told[name] = cells
                else:
                    choosing[name] = group.choose([logits[one.row] for one in rows])
            except Exception as error:  # noqa: BLE001 - a group fails alone, whatever it is
                told[name] = self._failed(name, rows[0].member, error)
        for name, failure in _run(choosing).items():
            member = whole[name][0].member
            told[name] = self._groups[name].cells() if failure is None else self._failed(name, member, failure)
        while len(self._groups) > self._kept + len(whole):
            self._groups.popitem(last=False)
        return told

    def _group(self, member: Membership) -> Group:
        if member.group not in self._groups:
            if self._loaded is None:
                self._loaded = self._load()
            self._groups[member.group] = Group(member, *self._loaded)
        self._groups.move_to_end(member.group)
        return self._groups[member.group]

    def _failed(self, name: str, member: Membership, error: BaseException) -> Cells:
        failure = _FAILURES.get(type(error), Failure.ERROR)
        if failure is Failure.ERROR:
            _logger.error("Steering failed for the group %s, which ends here.", name, exc_info=error)
        else:
            _logger.error("Steering failed for the group %s, which ends here: %s", name, error)
        ends = member.settings.eos_token_ids
        return failure_cells(failure, ends[0] if ends else 0)


def _run(choosing: Mapping[str, Choosing]) -> dict[str, BaseException | None]:
    """Let groups choose their tokens, in steps that they share; what became of each, None where it has chosen."""
    ended: dict[str, BaseException | None] = {}
    sent: dict[str, Sequence[Chosen] | None] = dict.fromkeys(choosing)
    while sent:
        wanted: dict[str, Sequence[Wanted]] = {}
        for name, chosen in sent.items():
            try:
                wanted[name] = choosing[name].send(chosen)  # type: ignore[arg-type]  # None starts it
            except StopIteration:
                ended[name] = None
            except Exception as error:  # noqa: BLE001 - likewise
                ended[name] = error
        results = iter(choose([one for asked in wanted.values() for one in asked]))
        sent = {}
        for name, asked in wanted.items():
            mine = list(islice(results, len(asked)))
            failed = next((one for one in mine if isinstance(one, BaseException)), None)
            if failed is None:
                sent[name] = [one for one in mine if isinstance(one, Chosen)]
            else:
                ended[name] = failed
    return ended


def _forced(token_id: int, settings: GroupSettings) -> Chosen:
    """The step of a token about which there is no choice."""
    return Chosen(
        token_id=token_id,
        broken=False,
        divergence=0.0,
        temperature=settings.step_sampling().temperature,
        position=None,
        spent=None,
        logprob=0.0,
        row_logprobs=dict.fromkeys(mixed_rows(settings.rows), 0.0),
        base=(),
        instructed=(),
        steered=((token_id, 0.0),),
        masked=False,
    )
