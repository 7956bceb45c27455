"""SteeringProcessor: the logits processor of vLLM that draws one token for all rows of a group.

vLLM has two interfaces for logits processors, one for each of its model runners, and each loader refuses what is made
for the other. So one class has both. It is named by its path (`--logits-processors`): vLLM loads what has an entry
point into every server of the machine, and one that it cannot load stops them all.

The processor runs before vLLM's own temperature and truncation, so it draws by itself, by the engine's `RowGroup`, and
leaves rows of which the greedy sampler can take that token alone. Nothing that goes wrong in it may reach vLLM, which
would end with all requests: a group whose step fails ends by itself, and its row says why.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor
from vllm.logger import init_logger
from vllm.v1.sample.logits_processor import LogitsProcessor as LegacyProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as Processor

from sda_integrations.vllm.group_steps import GroupSteps, PresentRow
from sda_integrations.vllm.payload import KEY, Membership, check_extra_args
from sda_integrations.vllm.worker_tokenizer import load_tokenizer

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig
    from vllm.v1.sample.logits_processor import BatchUpdate
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext, LogitsProcRequestState

logger = init_logger(__name__)


@dataclass(frozen=True)
class _Seat:
    """A row of a group in vLLM's batch: in its row there, or in the slot of Model Runner V2."""

    member: Membership
    output: Sequence[int] | None  # the legacy runner's list of tokens so far


class SteeringProcessor(LegacyProcessor, Processor):  # type: ignore[misc]  # vLLM's classes are not there for mypy
    """Draws tokens for groups; rows of other requests are left alone.

    The legacy runner makes it with (config, device, pin_memory), Model Runner V2 with (config, request state).
    """

    def __init__(self, vllm_config: "VllmConfig", *rest: Any) -> None:
        config = vllm_config.model_config
        self._requests: LogitsProcRequestState | None = rest[0] if len(rest) == 1 else None
        self._seats: dict[int, _Seat] = {}
        self._steps = GroupSteps(
            lambda: load_tokenizer(config.tokenizer, config.tokenizer_revision, config.hf_config),
            kept=2 * vllm_config.scheduler_config.max_num_seqs,
        )

    @classmethod
    def validate_params(cls, sampling_params: "SamplingParams") -> None:
        """Refuse, in vLLM's server, what would fail in its engine.

        Raises:
            ValueError: the settings of a group are none.
        """
        check_extra_args(sampling_params.extra_args)

    def is_argmax_invariant(self) -> bool:
        """It decides which token is the most likely one."""
        return False

    def update_state(self, batch_update: "BatchUpdate | None") -> None:
        """The legacy runner's news of its batch."""
        process_dict_updates(self._seats, batch_update, lambda params, _, output: _seat(params, output))

    def add_request(self, req_idx: int, sampling_params: "SamplingParams") -> bool:
        """A request that Model Runner V2 gives a slot."""
        seat = _seat(sampling_params, None)
        if seat is None:
            self._seats.pop(req_idx, None)
            return False
        self._seats[req_idx] = seat
        return True

    def apply(self, logits: Tensor, ctx: "LogitsContext | None" = None) -> Tensor:
        """Draw for every group all of whose rows are there.

        Args:
            logits: (rows, vocab) float32, after vLLM's grammars; changed in place.
            ctx: where rows are, from Model Runner V2.
        """
        if not self._seats:
            return logits
        try:
            self._steps.steer(logits, self._legacy_rows() if ctx is None else self._rows(ctx))
        except Exception:  # else all requests of the engine would end
            logger.exception("A step of steering failed.")
        return logits

    def _legacy_rows(self) -> list[PresentRow]:
        return [PresentRow(row, seat.member, len(seat.output or ()), seat.output) for row, seat in self._seats.items()]

    def _rows(self, ctx: "LogitsContext") -> list[PresentRow]:
        """Those rows whose sample counts: a prompt that is not read to its end has one that is thrown away."""
        assert self._requests is not None, "Model Runner V2 gives both"
        present = []
        for row, slot in enumerate(ctx.idx_mapping_np.tolist()):
            seat = self._seats.get(slot)
            if seat is None:
                continue
            length = int(ctx.seq_lens_upper_bound_np[row])
            if length >= int(self._requests.prefill_len.np[slot]):
                present.append(PresentRow(row, seat.member, length - int(self._requests.prompt_len.np[slot]), None))
        return present


def _seat(params: "SamplingParams", output: Sequence[int] | None) -> _Seat | None:
    given: Mapping[str, Any] = params.extra_args or {}
    if KEY not in given:
        return None
    member = Membership.of(given[KEY])
    return None if member is None else _Seat(member, output)
