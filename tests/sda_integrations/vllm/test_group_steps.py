"""Groups in a batch of vLLM get the tokens that the engine's own RowGroup draws, one position after the other."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sda_engine.config import Sampling, Steering
from sda_engine.decoding import DecodeSettings
from sda_engine.decoding.row_group import RowGroup
from sda_engine.decoding.step_batch import choose
from sda_engine.decoding.wanted import Chosen
from sda_engine.errors import NumericalError, SDAError
from sda_engine.steering import Budget
from sda_engine.testing import tiny_tokenizer
from sda_engine.tokens import SafeTokenizer, TokenCategories
from sda_integrations.vllm.group_steps import GroupSteps, PresentRow
from sda_integrations.vllm.payload import GroupSettings, Membership
from sda_integrations.vllm.reports import read_report, report_logprobs
from tests.thinking import thinking_tokenizer

TOKENIZER = SafeTokenizer(tiny_tokenizer())
VOCAB = len(tiny_tokenizer())
ROWS = ("base", "instructed")
END = 1

PLAIN = DecodeSettings(
    rows=ROWS,
    strength=1.5,
    avoid_strength=0.0,
    steering=Steering(),
    sampling=Sampling(seed=11, logprobs=2),
    stop=(),
    max_new_tokens=40,
    eos_token_ids=frozenset({END}),
    weights=(1.0,),
)


def settings(**changes: object) -> DecodeSettings:
    return replace(PLAIN, **changes)  # type: ignore[arg-type]


def logits_of(rows: int, position: int, salt: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * salt + position)
    return torch.randn((rows, VOCAB), generator=generator) * 3


def engine_tokens(given: DecodeSettings, count: int, salt: int = 0) -> list[int]:
    """What the engine draws from the same logits."""
    group = RowGroup(given, TOKENIZER)
    tokens: list[int] = []
    while len(tokens) < count:
        if forced := group.forced():
            tokens += [token.token_id for token in forced]
            continue
        asking = group.advance(list(logits_of(len(given.rows), len(tokens), salt)))
        sent = None
        while True:
            try:
                sent = choose(asking.send(sent))  # type: ignore[arg-type]
            except StopIteration as done:
                tokens.append(done.value.token_id)
                break
    return tokens


class Batch:
    """Groups in a batch, with rows of other requests between theirs."""

    def __init__(self, kept: int = 8) -> None:
        self.steps = GroupSteps(lambda: (TOKENIZER, TokenCategories(TOKENIZER, VOCAB)), kept)

    def step(self, groups: Sequence[tuple[str, DecodeSettings, Tensor, Sequence[int]]]) -> list[int | SDAError]:
        """One step: the id of each group, its settings, its rows, and its tokens so far."""
        parts, present = [], []
        for name, given, rows, tokens in groups:
            parts.append(torch.zeros((1, VOCAB)))  # some other request's
            member = GroupSettings.of(given, given.rows, masked=given.masked)
            for place, _ in enumerate(given.rows):
                place_in_batch = sum(len(part) for part in parts) + place
                present.append(PresentRow(place_in_batch, Membership(name, place, member), len(tokens), tokens))
            parts.append(rows)
        logits = torch.cat(parts)
        self.steps.steer(logits, present[::-1])
        taken: list[int | SDAError] = []
        first = 0
        for _, given, rows, _ in groups:
            assert bool((logits[first] == 0).all()), "other requests are left alone"
            mine = logits[first + 1 : first + 1 + len(rows)]
            first += 1 + len(rows)
            taken.append(self._token(mine, given))
        return taken

    def _token(self, rows: Tensor, given: DecodeSettings) -> int | SDAError:
        tokens = rows.argmax(dim=-1).tolist()
        assert len(set(tokens)) == 1, "all rows take the same token"
        best = rows[0].log_softmax(dim=-1).topk(report_logprobs(given.sampling.logprobs))
        told = dict(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        try:
            return read_report(tokens[0], told, ROWS, given.sampling.logprobs).token_id
        except SDAError as error:
            return error


@pytest.mark.parametrize(
    "given",
    [
        settings(),
        settings(sampling=Sampling(temperature=0)),
        settings(steering=Steering(plausibility=0.1, temperature_schedule="constant")),
        settings(steering=Steering(temperature_schedule="critical_tokens", critical_categories=("numbers",))),
        settings(budget=Budget(4.0, 3.0, 0.05)),
        settings(budget=Budget(2.0, 2.0, goes_on=True), eos_token_ids=frozenset(range(60))),
        settings(rows=("base", "instructed", "instructed 2"), weights=(0.7, 0.3)),
        settings(rows=("base", "instructed", "avoided"), avoid_strength=0.8),
        settings(rows=("base",), weights=(), strength=0.0),
    ],
    ids=["paper", "greedy", "plausible", "critical", "budget", "reserve", "combined", "avoided", "plain"],
)
def test_a_group_gets_the_engine_s_tokens_though_other_groups_and_requests_share_its_batch(given: DecodeSettings):
    batch, tokens, others = Batch(), list[int](), list[int]()
    other = settings(sampling=Sampling(seed=5))
    for position in range(25):
        rows = logits_of(len(given.rows), position)
        first, second = batch.step([("a", given, rows, tokens), ("b", other, logits_of(2, position, salt=3), others)])
        assert isinstance(first, int)
        assert isinstance(second, int)
        tokens.append(first)
        others.append(second)
    assert tokens == engine_tokens(given, 25)
    assert others == engine_tokens(other, 25, salt=3)


def test_samples_that_are_thrown_away_change_nothing():
    batch, given, tokens = Batch(), settings(budget=Budget(4.0, 3.0)), list[int]()
    for position in range(12):
        for salt in (7, 8):  # parts of a prompt, or a step that is done again
            batch.step([("a", given, logits_of(2, position, salt), tokens)])
        (token,) = batch.step([("a", given, logits_of(2, position), tokens)])
        assert isinstance(token, int)
        tokens.append(token)
    assert tokens == engine_tokens(given, 12)


def test_a_place_that_was_passed_gives_its_token_again():
    batch, given, tokens = Batch(), settings(), list[int]()
    for position in range(6):
        (token,) = batch.step([("a", given, logits_of(2, position), tokens)])
        assert isinstance(token, int)
        tokens.append(token)
    assert batch.step([("a", given, logits_of(2, 50), tokens[:4])]) == [tokens[4]], "whatever the logits are now"


def test_a_thought_that_is_too_long_is_closed_as_the_engine_closes_it(monkeypatch: pytest.MonkeyPatch):
    thinking = thinking_tokenizer("DeepSeek-R1-Distill")
    tokenizer = SafeTokenizer(thinking)
    monkeypatch.setitem(globals(), "TOKENIZER", tokenizer)
    monkeypatch.setitem(globals(), "VOCAB", len(thinking))
    markers = tokenizer.answer_format
    given = settings(
        sampling=Sampling(seed=2, max_reasoning_tokens=4),
        response_template=markers.template(with_tools=False),
        answer_prefix=markers.thought_begin,
        thought_closing=tuple(tokenizer.encode_answer(markers.thought_end)),
        markers=frozenset(markers.special_tokens.values()),
    )
    batch, tokens = Batch(), list[int]()
    told = RowGroup(given, tokenizer)  # of the server, which sorts the answer into what was thought and said
    for position in range(12):
        (token,) = batch.step([("a", given, logits_of(2, position), tokens)])
        assert isinstance(token, int)
        tokens.append(token)
        told.take(seen(token))
    assert tokens == engine_tokens(given, 12)
    assert thinking.get_vocab()["</think>"] in tokens[:6]
    result = told.result("length")
    assert [warning.kind for warning in result.warnings] == ["thought_cut"]
    assert result.reasoning
    assert result.text


def seen(token_id: int) -> Chosen:
    """What the server knows of a step."""
    return Chosen(token_id, False, 0.1, 0.5, None, None, -1.0, {"base": -1.0, "instructed": -1.0}, (), (), (), False)


def test_a_group_whose_rows_are_not_all_there_is_left_alone():
    given = GroupSettings.of(settings(), ROWS, masked=False)
    steps = GroupSteps(lambda: (TOKENIZER, TokenCategories(TOKENIZER, VOCAB)), 4)
    logits = logits_of(1, 0)
    before = logits.clone()
    steps.steer(logits, [PresentRow(0, Membership("a", 1, given), 0, ())])
    assert torch.equal(logits, before)


def test_tokens_that_a_grammar_masks_in_the_base_row_are_masked_in_all():
    rows = logits_of(2, 0)
    rows[0, 10:] = -torch.inf
    rows[1, 50] = 40.0  # the instructed row would take it for certain
    (token,) = Batch().step([("a", settings(masked=True), rows, [])])
    assert isinstance(token, int)
    assert token < 10


@pytest.mark.parametrize("bad", [torch.nan, -torch.inf])
def test_a_group_without_a_distribution_fails_alone(bad: float):
    broken = torch.full((2, VOCAB), bad)
    first, second = Batch().step([("a", settings(), broken, []), ("b", settings(), logits_of(2, 0), [])])
    assert isinstance(first, NumericalError)
    assert [second] == engine_tokens(settings(), 1)


def test_a_group_that_raises_fails_alone(monkeypatch: pytest.MonkeyPatch):
    batch = Batch()
    batch.step([("a", settings(), logits_of(2, 0), []), ("b", settings(), logits_of(2, 0), [])])
    monkeypatch.setattr(batch.steps._groups["a"], "choose", lambda logits: 1 / 0)
    first, second = batch.step([("a", settings(), logits_of(2, 0), []), ("b", settings(), logits_of(2, 0), [])])
    assert type(first) is SDAError
    assert [second] == engine_tokens(settings(), 1)


def test_a_group_whose_place_is_unknown_fails_in_place_of_going_on_wrongly():
    (token,) = Batch().step([("a", settings(), logits_of(2, 3), [5, 6, 7])])
    assert isinstance(token, SDAError)
    assert "lost" in str(token)


def test_groups_that_nobody_sees_any_more_are_forgotten():
    batch = Batch(kept=3)
    for number in range(20):
        batch.step([(f"group {number}", settings(), logits_of(2, 0), [])])
    assert len(batch.steps._groups) == 4
