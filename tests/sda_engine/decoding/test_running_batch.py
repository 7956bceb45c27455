import pytest
import torch

from sda_engine import EngineSettings
from sda_engine.decoding.model_runner import ModelRunner
from sda_engine.decoding.prompt_state import PromptState
from sda_engine.decoding.running_batch import RunningBatch
from sda_engine.decoding.tasks import Failed, Finished, Token
from sda_engine.prompts import BASE, Contexts
from sda_engine.testing import tiny_model
from tests.sda_engine.decoding.greedy import Greedy, greedy_alone, make_contexts, make_prompt

ARCHITECTURES = pytest.mark.parametrize("architecture", ["llama", "gemma3"])


class Batch(RunningBatch):
    """A running batch that remembers the size of each segment of each of its passes."""

    def __init__(self, model=None, cache_tokens=10**6, **settings):
        self.model = model or tiny_model()
        runner = ModelRunner(self.model)
        super().__init__(runner, EngineSettings(**settings), cache_tokens)
        self.passes = []
        forward = runner.forward

        def counted(segments):
            self.passes.append([len(segment.token_ids) for segment in segments])
            return forward(segments)

        runner.forward = counted

    @torch.inference_mode()
    def step(self):
        super().step()

    def run(self, *tasks):
        """Run tasks that join as soon as there is room, until all have ended."""
        waiting = list(tasks)
        while waiting or self.tasks:
            while waiting and self.make_room(waiting[0]):
                self.add(waiting.pop(0))
            assert self.tasks, "nothing runs, and nothing has room"
            self.step()
            yield


def run(batch, *tasks):
    for _ in batch.run(*tasks):
        pass


def decoding_batch(steps):
    """A batch in which a task decodes, so that prompts are read in small pieces."""
    batch = Batch(prefill_chunk=16, prefix_cache=False)
    batch.add(Greedy(steps=steps, prompt=make_prompt(max_new_tokens=steps)))
    batch.step()
    return batch


def connected(task):
    """The task, and a list of its events."""
    events = []
    task.connect(events.append)
    return task, events


# --- passes


def test_all_tasks_that_decode_share_every_pass():
    batch = Batch()
    run(batch, *(Greedy(prompt=make_prompt(start=start, tails=(2, 2))) for start in range(3)))
    assert batch.passes == [[5, 2] * 3, [1] * 6, [1] * 6]


@ARCHITECTURES
def test_a_long_prompt_is_prefilled_in_chunks_while_others_get_a_token_in_every_pass(architecture):
    batch = Batch(tiny_model(architecture=architecture), prefill_chunk=16, prefix_cache=False)
    decoding = [Greedy(steps=20, prompt=make_prompt(start=start, max_new_tokens=20)) for start in range(2)]
    for task in decoding:
        batch.add(task)
    batch.step()  # their prompts
    batch.passes.clear()
    long = Greedy(prompt=make_prompt(shared=100, tails=(1,), start=5))
    batch.add(long)
    for number in range(1, 8):
        batch.step()
        assert [len(task.tokens) for task in decoding] == [1 + number] * 2
        assert long.prefilling == (number < 7)
    assert [sorted(sizes)[:2] for sizes in batch.passes] == [[1, 1]] * 7
    assert [sum(sizes) - 2 for sizes in batch.passes] == [16] * 6 + [5]
    run(batch)
    for task in (*decoding, long):
        assert task.tokens == greedy_alone(batch.model, task.prompt.contexts, task.steps)


def test_prompts_are_prefilled_in_the_order_they_came_within_one_chunk():
    batch = decoding_batch(steps=20)
    batch.passes.clear()
    for start in (1, 2, 3):
        batch.add(Greedy(prompt=make_prompt(shared=0, tails=(12,), start=start)))
    for _ in range(3):
        batch.step()
    assert batch.passes == [[1, 12, 4], [1, 1, 8, 8], [1, 1, 1, 4]]


def test_a_short_prompt_is_read_before_the_rest_of_a_long_one_that_came_first():
    batch = decoding_batch(steps=40)
    long = Greedy(prompt=make_prompt(shared=0, tails=(100,), start=1))
    batch.add(long)
    batch.step()
    short = Greedy(prompt=make_prompt(shared=0, tails=(14,), start=2))
    batch.add(short)
    batch.passes.clear()
    batch.step()
    batch.step()
    assert batch.passes == [[1, 12, 4], [1, 2, 14]]  # a quarter of a pass is for the oldest
    assert (len(short.tokens), long.prefilling) == (1, True)


def test_a_long_prompt_is_read_though_short_ones_keep_coming():
    batch = decoding_batch(steps=80)
    long = Greedy(prompt=make_prompt(shared=0, tails=(40,), start=1))
    batch.add(long)
    passes = 0
    while long.prefilling:
        batch.add(Greedy(steps=1, prompt=make_prompt(shared=0, tails=(16,), start=2 + passes)))  # fills a pass alone
        batch.step()
        passes += 1
        assert passes <= 10


def test_prompts_that_nobody_waits_behind_are_prefilled_in_large_chunks():
    batch = Batch(prefill_chunk=16)
    run(batch, Greedy(prompt=make_prompt(shared=1500, tails=(1,)), steps=1))
    assert batch.passes == [[1024], [477]]


def test_a_chunk_may_be_set_larger_than_what_a_lone_prompt_gets():
    batch = Batch(prefill_chunk=1200)
    run(batch, Greedy(prompt=make_prompt(shared=1500, tails=(1,)), steps=1))
    assert batch.passes == [[1200], [301]]


@ARCHITECTURES
def test_tasks_that_come_and_go_answer_what_they_answer_alone(architecture):
    batch = Batch(tiny_model(architecture=architecture), max_rows=6, prefill_chunk=4)
    tasks = [
        Greedy(
            steps=1 + start % 7,
            prompt=make_prompt(shared=4 * start, tails=(1 + start, 2, 9)[: 1 + start % 3], start=start // 2),
        )
        for start in range(10)
    ]
    run(batch, *tasks)
    for task in tasks:
        assert task.tokens == greedy_alone(batch.model, task.prompt.contexts, task.steps)


# --- proposals


@pytest.mark.parametrize(
    ("rows", "proposals"), [(1, 8), (2, 7), (3, 4), (4, 3), (5, 2), (6, 1), (8, 1), (9, 0), (16, 0), (40, 0)]
)
def test_proposals_are_given_only_where_few_rows_run(rows, proposals):
    batch = Batch()
    tasks = [Greedy(steps=2, prompt=make_prompt(start=start)) for start in range(rows)]
    run(batch, *tasks)
    assert [task.proposals for task in tasks] == [[proposals]] * rows


@pytest.mark.parametrize("proposals", [0, 3, 64])
def test_no_more_is_proposed_than_the_settings_allow(proposals):
    task = Greedy(steps=2)
    run(Batch(proposals=proposals), task)
    assert task.proposals == [min(proposals, 15)]


# --- rows and memory


def test_a_task_joins_when_there_are_rows_and_memory_for_it():
    batch = Batch(max_rows=3, cache_tokens=40)
    two_rows = make_prompt(shared=4, tails=(1, 1), max_new_tokens=5)  # 6 tokens, and room for 10 more
    assert batch.make_room(Greedy(prompt=two_rows))
    running = Greedy(prompt=two_rows, keeps_prompt=True)
    batch.add(running)
    assert not batch.make_room(Greedy(prompt=make_prompt(shared=4, tails=(1, 1), max_new_tokens=5)))  # a fourth row
    assert batch.make_room(Greedy(prompt=make_prompt(shared=0, tails=(14,), max_new_tokens=10)))
    assert not batch.make_room(Greedy(prompt=make_prompt(shared=0, tails=(15,), max_new_tokens=10)))
    run(batch)
    assert batch.make_room(Greedy(prompt=two_rows, continues=True))
    assert two_rows.is_ready(two_rows.contexts.tails)  # rows are kept, and need no more room
    two_rows.release()
    assert batch.make_room(Greedy(prompt=make_prompt(shared=0, tails=(10,), max_new_tokens=30)))


def test_what_is_stored_of_a_prompt_needs_no_room_of_its_own():
    batch = Batch(cache_tokens=2000, max_rows=100)
    document = make_prompt(shared=800, tails=(1,), max_new_tokens=4)
    run(batch, Greedy(prompt=document, steps=1))
    for start in range(12):
        task = Greedy(prompt=PromptState(Contexts(document.contexts.shared, {BASE: (start,)}), 4))
        assert batch.make_room(task)
        batch.add(task)
    batch.step()
    assert batch.stats.held_tokens < 820
    run(batch)


def test_prompts_that_begin_alike_and_come_together_are_read_once():
    batch = Batch(max_rows=100)
    document = make_contexts(shared=600).shared
    tasks = [Greedy(prompt=PromptState(Contexts(document, {BASE: (7, start)}), 4)) for start in range(5)]
    run(batch, *tasks)
    assert sum(map(sum, batch.passes)) < 600 + 5 * 2 + 5 * 4
    for task in tasks:
        assert task.tokens == greedy_alone(batch.model, task.prompt.contexts, task.steps)


@ARCHITECTURES
@pytest.mark.parametrize("prefix_cache", [True, False])
@pytest.mark.parametrize("steps", [40, 90])
def test_the_youngest_lets_go_of_its_rows_where_memory_runs_out_and_goes_on_as_if_it_had_not(
    architecture, prefix_cache, steps
):
    batch = Batch(tiny_model(architecture=architecture), cache_tokens=3 * steps, prefix_cache=prefix_cache)
    contexts = [make_contexts(shared=4, tails=(3, 5), start=start) for start in range(3)]
    tasks = [Greedy(prompt=PromptState(each, steps), steps=steps) for each in contexts]
    for task in tasks:
        batch.add(task)  # whether there is room or not
    while batch.tasks:
        batch.step()
        assert batch.stats.held_tokens <= 3 * steps
    assert batch.stats.preemptions > 0
    assert ("task", "begin again") not in tasks[0].log
    assert ("task", "begin again") in tasks[2].log
    for task in tasks:
        assert task.tokens == greedy_alone(batch.model, task.prompt.contexts, steps)


def crowded_batch():
    """A batch of two tasks, of which the younger one has had to let go of its rows."""
    batch = Batch(cache_tokens=100)
    old, young = (
        Greedy(prompt=make_prompt(shared=0, tails=(10,), start=start, max_new_tokens=70), steps=70) for start in (1, 2)
    )
    batch.add(old)
    batch.add(young)
    while not young.suspended:
        batch.step()
    return batch, old, young


def test_nobody_joins_before_those_that_have_lent_their_memory():
    batch, old, young = crowded_batch()
    assert not batch.make_room(Greedy(prompt=make_prompt(max_new_tokens=1)))
    run(batch)
    for task in (old, young):
        assert task.tokens == greedy_alone(batch.model, task.prompt.contexts, 70)


def test_a_suspended_task_can_be_cancelled():
    batch, old, young = crowded_batch()
    young.cancel()
    batch.step()
    assert batch.tasks == (old,)
    assert young.prompt.released


@ARCHITECTURES
@pytest.mark.parametrize("prefix_cache", [True, False])
def test_requests_between_two_tasks_let_go_of_rows_that_others_need_the_youngest_first(architecture, prefix_cache):
    batch = Batch(tiny_model(architecture=architecture), cache_tokens=90, prefix_cache=prefix_cache)
    prompts = [make_prompt(shared=4, tails=(6, 6), start=start, max_new_tokens=5) for start in range(3)]  # hold 22 each
    for prompt in prompts:
        run(batch, Greedy(prompt=prompt, keeps_prompt=True, steps=2))
    needs_fifty = Greedy(prompt=make_prompt(shared=0, tails=(40,), start=7, max_new_tokens=10))
    assert batch.make_room(needs_fifty)
    assert [prompt.is_ready(prompt.contexts.tails) for prompt in prompts] == [True, False, False]
    batch.add(needs_fifty)
    going_on = [Greedy(prompt=prompt, steps=5, continues=True) for prompt in prompts]
    run(batch, *going_on)
    for task in (needs_fifty, *going_on):
        assert task.tokens == greedy_alone(batch.model, task.prompt.contexts, task.steps)


def test_rows_of_what_runs_are_not_given_to_others():
    batch = Batch(cache_tokens=40)
    batch.add(Greedy(prompt=make_prompt(shared=0, tails=(10,), max_new_tokens=10)))
    assert not batch.make_room(Greedy(prompt=make_prompt(shared=0, tails=(20,), max_new_tokens=10)))


@ARCHITECTURES
@pytest.mark.parametrize("cache_tokens", [120, 200, 400])
def test_rows_and_stored_prefixes_never_take_more_than_they_may(architecture, cache_tokens):
    batch = Batch(tiny_model(architecture=architecture), cache_tokens=cache_tokens, prefill_chunk=8)
    most = []
    tasks = [
        Greedy(
            steps=1 + start % 5,
            prompt=make_prompt(shared=start % 11, tails=(1 + start, 3)[: 1 + start % 2], start=start % 5),
        )
        for start in range(30)
    ]
    for _ in batch.run(*tasks):
        most.append(batch._memory.tokens)
        assert batch._memory.row_tokens == batch.stats.held_tokens
    assert max(most) <= cache_tokens
    assert max(most) > cache_tokens / 2  # it makes use of it
    assert batch._memory.row_tokens == 0
    assert 0 < batch._store.tokens == batch._memory.tokens <= cache_tokens // 2


def test_stored_prefixes_make_room_for_rows_that_need_it():
    batch = Batch(cache_tokens=100)
    run(batch, Greedy(prompt=make_prompt(shared=40, tails=(8,), max_new_tokens=3)))
    assert batch._store.tokens == 50
    batch.add(Greedy(prompt=make_prompt(shared=60, tails=(8,), max_new_tokens=12, start=3)))
    batch.step()
    assert batch._memory.tokens <= 100
    run(batch)
    assert batch._memory.tokens <= 100


def test_without_a_prefix_cache_nothing_is_stored():
    batch = Batch(prefix_cache=False)
    run(batch, Greedy(), Greedy())
    assert batch._store.tokens == 0


def test_clearing_forgets_the_stored_prefixes():
    batch = Batch()
    run(batch, Greedy())
    assert batch._store.tokens > 0
    batch.clear()
    assert batch._store.tokens == batch._memory.tokens == batch._memory.slots.layers == 0


# --- ends


def test_the_last_event_of_a_task_is_finished_or_failed():
    batch = Batch()
    good, good_events = connected(Greedy(steps=3))
    bad, bad_events = connected(Greedy(error=ZeroDivisionError("oops")))
    run(batch, good, bad)
    assert [type(event) for event in good_events] == [Token, Token, Token, Finished]
    assert [type(event) for event in bad_events] == [Token, Failed]
    assert good.prompt.released
    assert bad.prompt.released


@pytest.mark.parametrize("steps_before", [0, 1, 3])
def test_a_cancelled_task_ends_before_the_next_pass(steps_before):
    batch = Batch(prefill_chunk=8)
    other = Greedy(steps=6, prompt=make_prompt(start=2))
    task, events = connected(Greedy(steps=50, prompt=make_prompt(shared=10, max_new_tokens=50)))
    batch.add(other)
    batch.add(task)
    for _ in range(steps_before):
        batch.step()
    task.cancel()
    passes = len(batch.passes)
    batch.step()
    assert events[-1] == Finished()
    assert task.prompt.released
    assert len(batch.passes) == passes + 1
    assert batch.tasks == (other,)
    run(batch)
    assert other.tokens == greedy_alone(batch.model, other.prompt.contexts, 6)


def test_a_task_that_is_dropped_ends_without_having_joined():
    batch = Batch()
    task, events = connected(Greedy())
    task.cancel()
    batch.drop(task)
    assert events == [Finished()]
    assert task.prompt.released
    assert batch.passes == []


def test_a_task_whose_end_comes_with_its_prompt_takes_one_pass():
    batch = Batch()
    run(batch, Greedy(steps=1))
    assert batch.passes == [[5]]
