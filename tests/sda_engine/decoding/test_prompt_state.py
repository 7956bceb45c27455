import pytest
import torch

from sda_engine.decoding.model_runner import ModelRunner
from sda_engine.decoding.prefix_store import PrefixStore
from sda_engine.decoding.prompt_state import PromptState
from sda_engine.decoding.rows import RowMemory
from sda_engine.decoding.segments import Segment
from sda_engine.prompts import AVOIDED, BASE, INSTRUCTED, Contexts
from sda_engine.testing import tiny_model
from tests.sda_engine.decoding.architectures import logits_of, states_of
from tests.sda_engine.decoding.greedy import ROWS, make_contexts, make_prompt

ENOUGH = 1000
ARCHITECTURES = pytest.mark.parametrize("architecture", ["llama", "gemma3"])


class Prefill:
    """A model and a store, and the passes that prompts take."""

    def __init__(self, model=None, stored=ENOUGH):
        self.model = model or tiny_model()
        self.runner = ModelRunner(self.model)
        self.store = PrefixStore(stored)
        self.passes = []  # of each pass, the tokens per row

    @torch.inference_mode()
    def step(self, prompt, names, most=ENOUGH):
        segments = prompt.plan(names, most, self.store)
        self.passes.append([len(segment.token_ids) for segment in segments])
        prompt.take(self.runner.forward(segments) if segments else [], self.store)

    def complete(self, prompt, names=None, most=ENOUGH):
        names = names or tuple(prompt.contexts.tails)
        while not prompt.is_ready(names):
            self.step(prompt, names, most)
            assert len(self.passes) < 1000
        return prompt

    @property
    def tokens(self):
        return sum(map(sum, self.passes))


def texts_of(contexts):
    return {name: [*contexts.shared, *tail] for name, tail in contexts.tails.items()}


def assert_right(prompt, model):
    """The rows hold their prompts, their logits are those of each alone, and what they hold can be gone on from."""
    for name, text in texts_of(prompt.contexts).items():
        (row,) = prompt.rows([name])
        assert row.token_ids == text
        torch.testing.assert_close(prompt.logits[name], logits_of(model, text)[-1], atol=1e-4, rtol=1e-4)
        fresh = Prefill(model).complete(PromptState(Contexts((), {BASE: tuple(text)}), 1)).rows([BASE])[0]
        for layer, right in zip(states_of(row), states_of(fresh), strict=True):
            for state, expected in zip(layer, right, strict=True):
                torch.testing.assert_close(state, expected, atol=1e-4, rtol=1e-4)


@ARCHITECTURES
@pytest.mark.parametrize("most", [1, 3, 8, 1000])
@pytest.mark.parametrize("tails", [(4,), (4, 6), (1, 2, 30), (30, 2, 1)])
def test_what_rows_share_is_computed_once_whatever_the_pieces(architecture, most, tails):
    prefill = Prefill(tiny_model(architecture=architecture))
    prompt = prefill.complete(make_prompt(shared=20, tails=tails), most=most)
    assert prefill.tokens == 20 + sum(tails)
    assert max(map(sum, prefill.passes)) <= most
    assert prompt.cached_tokens == 0
    assert_right(prompt, prefill.model)


def test_rows_that_share_nothing_are_prefilled_together():
    prefill = Prefill()
    prompt = prefill.complete(make_prompt(shared=0, tails=(4, 6, 5)))
    assert prefill.passes == [[4, 6, 5]]
    assert_right(prompt, prefill.model)


def test_rows_wait_for_what_they_share_with_the_base_row():
    prefill = Prefill()
    prompt = make_prompt(shared=10, tails=(4, 6))
    prefill.complete(prompt, most=7)
    assert prefill.passes == [[7], [7], [6]]  # the other row begins where the base row has come to


def test_without_a_store_the_shared_part_is_still_computed_once():
    prefill = Prefill(stored=0)
    prompt = prefill.complete(make_prompt(shared=20, tails=(4, 6, 5)))
    assert prefill.tokens == 20 + 4 + 6 + 5
    assert prefill.store.tokens == 0
    assert_right(prompt, prefill.model)


@ARCHITECTURES
def test_a_prompt_that_is_stored_forwards_one_token_of_each_row(architecture):
    prefill = Prefill(tiny_model(architecture=architecture))
    contexts = make_contexts(shared=20, tails=(4, 6))
    prefill.complete(PromptState(contexts, 8))
    prefill.passes.clear()
    again = prefill.complete(PromptState(contexts, 8))
    assert prefill.passes == [[1, 1]]
    assert again.cached_tokens == 23
    assert_right(again, prefill.model)


@ARCHITECTURES
@pytest.mark.parametrize("stored", [1, 15, 20, 22])
def test_a_prompt_that_is_stored_in_part_forwards_the_rest(architecture, stored):
    prefill = Prefill(tiny_model(architecture=architecture))
    contexts = make_contexts(shared=20, tails=(4, 6))
    begin = texts_of(contexts)[BASE][:stored]
    prefill.complete(PromptState(Contexts((), {BASE: (*begin, 250)}), 8))
    prefill.passes.clear()
    prompt = prefill.complete(PromptState(contexts, 8))
    assert prompt.cached_tokens == stored
    assert prefill.tokens == 20 + 4 + 6 - stored
    assert_right(prompt, prefill.model)


def test_a_row_that_is_stored_further_than_the_base_row_does_not_wait():
    prefill = Prefill()
    contexts = make_contexts(shared=20, tails=(4, 6))
    prefill.complete(PromptState(Contexts((), {BASE: tuple(texts_of(contexts)[INSTRUCTED])}), 8))
    prefill.passes.clear()
    prompt = prefill.complete(PromptState(contexts, 8))
    assert prefill.passes == [[4, 1]]
    assert_right(prompt, prefill.model)


def test_what_is_evicted_while_a_prompt_is_prefilled_is_taken_from_the_base_row():
    prefill = Prefill()
    contexts = make_contexts(shared=20, tails=(4, 6))
    prefill.complete(PromptState(contexts, 8))
    prompt = PromptState(contexts, 8)
    prefill.step(prompt, ROWS[:2], most=1)  # opens the base row alone
    prefill.store.clear()
    prefill.complete(prompt)
    assert_right(prompt, prefill.model)


@pytest.mark.parametrize("tails", [(4, 6), (4, 20), (20, 20)])
def test_what_is_evicted_before_the_base_row_has_had_a_pass_is_taken_from_it_all_the_same(tails):
    prefill = Prefill()
    prefill.store = PrefixStore(ENOUGH, RowMemory(tail=16))
    contexts = make_contexts(shared=6, tails=tails)
    prefill.complete(PromptState(contexts, 8))
    prompt = PromptState(contexts, 8)
    prompt.plan((BASE,), ENOUGH, prefill.store)  # and the pass is not run
    prefill.store.clear()
    prefill.complete(prompt)
    assert_right(prompt, prefill.model)


def test_rows_of_a_later_stage_join_the_rows_that_are_there():
    prefill = Prefill()
    prompt = make_prompt(shared=20, tails=(4, 6, 5))
    prefill.complete(prompt, (BASE,))
    assert prefill.tokens == 24
    assert not prompt.is_ready((BASE, INSTRUCTED))
    (base,) = prompt.rows((BASE,))
    prefill.complete(prompt)
    assert prefill.tokens == 24 + 6 + 5
    assert prompt.rows((BASE,)) == [base]
    assert_right(prompt, prefill.model)


def test_a_later_stage_finds_the_rows_cut_back_to_their_prompts():
    prefill = Prefill()
    prompt = prefill.complete(make_prompt(shared=5, tails=(4, 6)))
    with torch.inference_mode():
        (base,) = prompt.rows((BASE,))
        prefill.runner.forward([Segment(base, [7])])
    assert base.length == 10
    assert prompt.rows((BASE,))[0].length == 9
    assert_right(prompt, prefill.model)


def test_nothing_is_planned_where_no_token_may_be_added_or_everything_is_ready():
    prefill = Prefill()
    prompt = make_prompt()
    assert prompt.plan((BASE,), 0, prefill.store) == []
    prompt.take([], prefill.store)
    prefill.complete(prompt)
    assert prompt.plan((BASE,), 10, prefill.store) == []
    prompt.take([], prefill.store)
    assert prompt.is_ready((BASE,))


def test_a_pass_that_never_ran_is_planned_again():
    prefill = Prefill()
    prompt = make_prompt(shared=20, tails=(4, 6))
    prompt.plan(ROWS[:2], 15, prefill.store)  # and the pass fails
    prefill.complete(prompt, most=15)
    assert prefill.tokens == 30
    assert_right(prompt, prefill.model)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_only_prompts_without_nan_are_stored(bad):
    prefill = Prefill()
    prompt = make_prompt()
    segments = prompt.plan((BASE,), ENOUGH, prefill.store)
    (logits,) = prefill.runner.forward(segments)
    with torch.inference_mode():
        logits[-1, 7] = bad
        prompt.take([logits], prefill.store)
    assert prompt.is_ready((BASE,))  # whoever decodes says what is wrong
    assert prefill.store.tokens == (0 if bad != bad else 5)


def test_the_logits_that_are_kept_hold_no_others():
    prefill = Prefill()
    prompt = prefill.complete(make_prompt(tails=(2, 2, 2)))
    for logits in prompt.logits.values():
        assert logits.untyped_storage().nbytes() == logits.nbytes
    assert prompt.last_logits((BASE, AVOIDED)).shape == (2, 1, 320)


def test_a_released_prompt_holds_nothing():
    prefill = Prefill()
    prompt = make_prompt(shared=5, tails=(4, 6), max_new_tokens=10)
    assert prompt.tokens == (5 + 4 + 10) + (5 + 6 + 10)
    prefill.complete(prompt)
    assert prompt.tokens == 40  # what the rows may grow to, from the beginning on
    prompt.release()
    assert prompt.released
    assert prompt.tokens == 0
    assert not prompt.is_ready((BASE,))
    assert prompt._rows == {}
    prompt.release()
