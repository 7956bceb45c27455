"""The logits processor fits both interfaces of vLLM, and draws the same through either."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from vllm.config import VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, _load_logitsprocs_by_fqcns
from vllm.v1.sample.logits_processor.interface import MoveDirectionality
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext

from sda_engine.config import Sampling, Steering
from sda_engine.decoding import DecodeSettings
from sda_engine.testing import tiny_tokenizer
from sda_engine.tokens import SafeTokenizer, TokenCategories
from sda_integrations.vllm import processor
from sda_integrations.vllm.payload import GroupSettings, extra_args
from sda_integrations.vllm.processor import SteeringProcessor

ROWS = ("base", "instructed")
VOCAB = len(tiny_tokenizer())
SETTINGS = GroupSettings.of(
    DecodeSettings(
        rows=ROWS,
        strength=1.0,
        avoid_strength=0.0,
        steering=Steering(),
        sampling=Sampling(seed=3),
        stop=(),
        max_new_tokens=9,
        eos_token_ids=frozenset({1}),
        weights=(1.0,),
    ),
    ROWS,
    masked=False,
)
PATH = "sda_integrations.vllm.processor:SteeringProcessor"


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object) -> tuple[SafeTokenizer, TokenCategories]:
        tokenizer = SafeTokenizer(tiny_tokenizer())
        return tokenizer, TokenCategories(tokenizer, VOCAB)

    monkeypatch.setattr(processor, "load_tokenizer", load)


def config() -> Any:
    model = SimpleNamespace(tokenizer="tiny", tokenizer_revision=None, hf_config=None)
    return SimpleNamespace(model_config=model, scheduler_config=SimpleNamespace(max_num_seqs=4))


def params(row: str, group: str = "a") -> SamplingParams:
    """Of a row, as the scheduler leaves them."""
    given = {"settings": SETTINGS.model_dump(), "group": group, "row": row, "count": 2}
    return SamplingParams(temperature=0.0, extra_args={"sda": given})


def logits(position: int) -> torch.Tensor:
    return torch.randn((3, VOCAB), generator=torch.Generator().manual_seed(position)) * 3


def by_legacy(count: int) -> list[int]:
    """The tokens of a group whose rows stand at 0 and 2, and change places in the middle, by the legacy runner."""
    made = SteeringProcessor(config(), torch.device("cpu"), False)
    output: list[int] = []
    places = [0, 2]
    added = [(0, params("base"), [5], output), (1, SamplingParams(), [5], []), (2, params("instructed"), [6], output)]
    made.update_state(BatchUpdate(batch_size=3, removed=[], added=added, moved=[]))
    for position in range(count):
        if position == count // 2:
            swap = [(0, 2, MoveDirectionality.SWAP)]
            made.update_state(BatchUpdate(batch_size=3, removed=[], added=[], moved=swap))
            places.reverse()
        rows = logits(position)
        batch = rows[[places[0], 1, places[1]]] if places == [0, 2] else rows[[2, 1, 0]]
        other = batch[1].clone()
        after = made.apply(batch)
        assert torch.equal(after[1], other), "other requests are left alone"
        tokens = after[places].argmax(dim=-1).tolist()
        assert tokens[0] == tokens[1]
        output.append(tokens[0])
    return output


def by_v2(count: int) -> list[int]:
    """The same by Model Runner V2, whose rows are in another order in each step."""
    lengths = {4: 1, 7: 1}  # tokens of the prompts, by slot
    state = SimpleNamespace(
        prompt_len=SimpleNamespace(np=np.ones(8, dtype=int)), prefill_len=SimpleNamespace(np=np.ones(8, dtype=int))
    )
    made = SteeringProcessor(config(), state)
    assert made.add_request(4, params("base"))
    assert made.add_request(7, params("instructed"))
    assert not made.add_request(2, SamplingParams())
    output: list[int] = []
    for position in range(count):
        rows = logits(position)
        order = [4, 2, 7] if position % 2 else [7, 4, 2]
        of_slot = {4: rows[0], 2: rows[1], 7: rows[2]}
        batch = torch.stack([of_slot[slot] for slot in order])
        after = made.apply(batch, context(order, [lengths.get(slot, 1) + position for slot in order]))
        tokens = [int(after[place].argmax()) for place, slot in enumerate(order) if slot != 2]
        assert tokens[0] == tokens[1]
        output.append(tokens[0])
    return output


def context(slots: list[int], lengths: list[int]) -> LogitsContext:
    mapping = np.array(slots)
    return LogitsContext(
        expanded_idx_mapping=torch.tensor(slots),
        idx_mapping=torch.tensor(slots),
        idx_mapping_np=mapping,
        expanded_local_pos=torch.zeros(len(slots)),
        input_ids=torch.zeros(len(slots)),
        pos=torch.zeros(len(slots)),
        seq_lens_upper_bound_np=np.array(lengths),
    )


def test_both_runners_draw_the_same():
    assert by_legacy(9) == by_v2(9)


def test_a_prompt_that_is_read_in_parts_draws_nothing_in_model_runner_v2():
    state = SimpleNamespace(prompt_len=SimpleNamespace(np=np.full(8, 5)), prefill_len=SimpleNamespace(np=np.full(8, 5)))
    made = SteeringProcessor(config(), state)
    made.add_request(4, params("base"))
    made.add_request(7, params("instructed"))
    batch = logits(0)[:2]
    before = batch.clone()
    assert torch.equal(made.apply(batch, context([4, 7], [3, 5])), before)


def test_a_slot_that_another_request_takes_is_no_longer_the_group_s():
    state = SimpleNamespace(prompt_len=SimpleNamespace(np=np.ones(8)), prefill_len=SimpleNamespace(np=np.ones(8)))
    made = SteeringProcessor(config(), state)
    made.add_request(4, params("base"))
    made.add_request(7, params("instructed"))
    made.add_request(7, SamplingParams())
    batch = logits(0)[:2]
    before = batch.clone()
    assert torch.equal(made.apply(batch, context([4, 7], [1, 1])), before)


def test_whatever_goes_wrong_stays_inside(monkeypatch: pytest.MonkeyPatch):
    made = SteeringProcessor(config(), torch.device("cpu"), False)
    made.update_state(BatchUpdate(batch_size=1, removed=[], added=[(0, params("base"), [5], [])], moved=[]))
    monkeypatch.setattr(made._steps, "steer", lambda *_: 1 / 0)
    batch = logits(0)
    assert made.apply(batch) is batch


def test_the_server_takes_it_by_its_path_and_refuses_what_is_no_group():
    (loaded,) = _load_logitsprocs_by_fqcns([PATH])
    assert loaded is SteeringProcessor
    loaded.validate_params(SamplingParams())
    loaded.validate_params(SamplingParams(extra_args=extra_args(SETTINGS, {"instructed": [1, 2]})))
    for wrong in ("nonsense", {"rows": {}}, {"rows": {"other": [1]}, "settings": SETTINGS.model_dump()}):
        with pytest.raises(ValueError, match=r"sda|settings|validation"):
            loaded.validate_params(SamplingParams(extra_args={"sda": wrong}))


def test_vllm_s_configuration_has_what_the_processor_reads():
    fields = VllmConfig.__dataclass_fields__ if hasattr(VllmConfig, "__dataclass_fields__") else {}
    assert {"model_config", "scheduler_config"} <= set(fields)
