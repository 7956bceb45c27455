"""What an earlier request has computed of a prompt is not computed again, shows in the usage, and changes no answer."""

import asyncio
import gc
import weakref
from contextlib import contextmanager

import pytest

from sda_engine import Alignment, EngineSettings, Output, Sampling, Steering, SteeringEngine
from sda_engine.decoding.prefix_store import _Node
from sda_engine.evaluators import ContrastiveEvaluator
from sda_engine.testing import ScriptedEvaluator, tiny_model, tiny_tokenizer
from tests.conftest import user
from tests.floats import LOGPROB
from tests.sda_engine.decoding.forwarded import CONTEXT, KIND, Forwarded, prompt_ids
from tests.sizes import size

GREEDY = Sampling(temperature=0, max_new_tokens=8)
POET = Alignment(instruction="answer as a poet", name="poet")
ONE_BY_ONE = EngineSettings(proposals=0)  # each token of an answer is one token of each row
WITHOUT = EngineSettings(proposals=0, prefix_cache=False)


@contextmanager
def counting_engine(settings: EngineSettings = ONE_BY_ONE, **model):
    with SteeringEngine(endless_model(**model), tiny_tokenizer(), settings=settings) as engine:
        yield Forwarded(engine)


def endless_model(**model):
    made = tiny_model(**model)
    made.generation_config.eos_token_id = []
    return made


def instructed(messages, alignment: Alignment):
    """The messages with an instruction after the query, as the paper has it."""
    *others, last = messages
    return [*others, {**last, "content": f"{last['content']}\n{alignment.instruction}"}]


def common(one, other) -> int:
    """Tokens that two sequences begin with in common."""
    return next(
        (place for place, pair in enumerate(zip(one, other, strict=False)) if len(set(pair)) > 1),
        min(len(one), len(other)),
    )


def ask(question: str):
    return user(f"{CONTEXT}\n{question}")


ARCHITECTURES = pytest.mark.parametrize("architecture", ["llama", "gemma3"])


# --- what is reused


@ARCHITECTURES
def test_a_second_question_on_the_same_context_forwards_only_itself(architecture):
    with counting_engine(architecture=architecture) as counting:
        first, tokens = counting.of(ask("when does it open?"), sampling=GREEDY)
        assert tokens == first.usage.prompt_tokens + 7  # the last token of an answer is not fed back
        second, tokens = counting.of(ask("who is in it?"), sampling=GREEDY)
    shared = common(prompt_ids(ask("when does it open?")), prompt_ids(ask("who is in it?")))
    assert first.usage.cached_prompt_tokens == 0
    assert second.usage.cached_prompt_tokens == shared > 0.8 * second.usage.prompt_tokens
    assert tokens == second.usage.prompt_tokens - shared + 7


@ARCHITECTURES
def test_the_same_question_again_forwards_one_token_of_the_prompt(architecture):
    with counting_engine(architecture=architecture) as counting:
        first, _ = counting.of(ask("who?"), sampling=GREEDY)
        again, tokens = counting.of(ask("who?"), sampling=GREEDY)
    assert again.usage.cached_prompt_tokens == again.usage.prompt_tokens - 1
    assert tokens == 8
    assert again.token_ids == first.token_ids


def test_a_steered_question_forwards_the_part_that_its_rows_share_once():
    with counting_engine() as counting:
        first, tokens = counting.of(ask("who?"), KIND, sampling=GREEDY)
        base, other = prompt_ids(ask("who?")), prompt_ids(instructed(ask("who?"), KIND))
        assert tokens == len(base) + len(other) - common(base, other) + 2 * 7
        second, tokens = counting.of(ask("what?"), KIND, sampling=GREEDY)
        base_2, other_2 = prompt_ids(ask("what?")), prompt_ids(instructed(ask("what?"), KIND))
    assert first.usage.cached_prompt_tokens == 0
    assert second.usage.cached_prompt_tokens == common(base, base_2)
    new = len(base_2) - common(base, base_2) + len(other_2) - common(base_2, other_2)
    assert tokens == new + 2 * 7


def test_two_alignments_on_one_context_share_the_base_prompt():
    with counting_engine() as counting:
        counting.of(ask("who?"), KIND, sampling=GREEDY)
        second, tokens = counting.of(ask("who?"), POET, sampling=GREEDY)
        base = prompt_ids(ask("who?"))
        kind, poet = prompt_ids(instructed(ask("who?"), KIND)), prompt_ids(instructed(ask("who?"), POET))
    assert second.usage.cached_prompt_tokens == len(base) - 1
    assert tokens == 1 + len(poet) - max(common(base, poet), common(kind, poet)) + 2 * 7


def test_a_plain_question_shares_the_prompt_of_a_steered_one_and_the_other_way_round():
    with counting_engine() as counting:
        counting.of(ask("who?"), KIND, sampling=GREEDY)
        plain, tokens = counting.of(ask("who?"), sampling=GREEDY)
        assert (plain.usage.cached_prompt_tokens, tokens) == (plain.usage.prompt_tokens - 1, 8)
    with counting_engine() as counting:
        counting.of(ask("who?"), sampling=GREEDY)
        steered, tokens = counting.of(ask("who?"), KIND, sampling=GREEDY)
        base, other = prompt_ids(ask("who?")), prompt_ids(instructed(ask("who?"), KIND))
    assert steered.usage.cached_prompt_tokens == len(base) - 1
    assert tokens == 1 + len(other) - common(base, other) + 2 * 7


@ARCHITECTURES
@pytest.mark.parametrize("alignment", [None, KIND])
def test_the_next_turn_of_a_chat_forwards_only_what_is_new(architecture, alignment):
    messages = ask("who?")
    with (
        counting_engine(architecture=architecture) as counting,
        counting_engine(WITHOUT, architecture=architecture) as plain,
    ):
        seen: list[list[int]] = []
        for question in ("and then?", "why?", "since when?"):
            done, tokens = counting.of(messages, alignment, sampling=GREEDY)
            expected, all_tokens = plain.of(messages, alignment, sampling=GREEDY)
            assert done.token_ids == expected.token_ids
            assert (expected.usage.cached_prompt_tokens, expected.usage.prompt_tokens) == (0, done.usage.prompt_tokens)
            prompt = prompt_ids(messages)
            cached = max((common(prompt, earlier) for earlier in seen), default=0)
            assert done.usage.cached_prompt_tokens == min(cached, len(prompt) - 1)
            assert tokens < all_tokens or not seen
            if alignment is None:
                assert tokens == len(prompt) - cached + 7
            seen.append([*prompt, *done.token_ids[:-1]])
            messages = [*messages, {"role": "assistant", "content": done.text}, *user(question)]
    assert common(prompt, seen[-2]) > len(seen[-2]) - 9, "the last prompt held the one before as a whole"


def test_the_answer_itself_is_reused_where_the_next_prompt_spells_it_alike():
    """A model that answers in whole words: its text becomes the same tokens again."""
    tokenizer = tiny_tokenizer()
    answer = tokenizer.encode(" the quick brown", add_special_tokens=False)
    with counting_engine() as counting:
        settings = GREEDY.replace(max_new_tokens=len(answer))
        steering = Steering(temperature_schedule="constant")
        first = None
        for seed in range(3000):  # an answer of any tokens that survive the round trip
            first = counting.engine.generate(
                user("x"), sampling=settings.replace(temperature=5.0, top_p=None, seed=seed), steering=steering
            )
            again = tokenizer.encode(first.text, add_special_tokens=False)
            if tuple(again) == first.token_ids:
                break
        assert first is not None
        messages = [*user("x"), {"role": "assistant", "content": first.text}, *user("y")]
        second = counting.engine.generate(messages, sampling=GREEDY)
    expected = common(prompt_ids(messages), [*prompt_ids(user("x")), *first.token_ids[:-1]])
    assert expected == len(prompt_ids(user("x"))) + len(answer) - 1
    assert second.usage.cached_prompt_tokens == expected


def test_an_accepted_base_response_is_kept_for_the_next_turn():
    steering = Steering(evaluator=ScriptedEvaluator([50]), accept_score=50.0)
    with counting_engine() as counting:
        done = counting.engine.generate(ask("who?"), KIND, steering=steering, sampling=GREEDY)
        assert done.amplification is None, "the base response is the answer"
        assert stored(counting.engine) == len(prompt_ids(ask("who?"))) + 7


def test_a_base_response_that_was_only_rated_takes_no_room():
    with counting_engine() as counting:
        steering = Steering(evaluator=ScriptedEvaluator([50]))
        done = counting.engine.generate(ask("who?"), KIND, steering=steering, sampling=GREEDY)
        assert done.base_response != done.text
        base, other = prompt_ids(ask("who?")), prompt_ids(instructed(ask("who?"), KIND))
        assert stored(counting.engine) == len(base) + len(other) - common(base, other) + 2 * 7


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 6}},
            "required": ["city"],
        },
    },
}


@pytest.mark.parametrize("alignment", [None, KIND])
def test_each_step_of_an_agent_loop_forwards_only_what_the_step_before_added(alignment):
    output = Output(tools=[WEATHER], tool_choice="weather")
    sampling = Sampling(temperature=0, max_new_tokens=120)
    messages = [{"role": "system", "content": CONTEXT}, *user("is it warm in the north?")]

    def engine(settings):
        return SteeringEngine(tiny_model(), tiny_tokenizer(), settings=settings)

    with engine(EngineSettings()) as with_store, engine(EngineSettings(prefix_cache=False)) as without:
        counting, plain = Forwarded(with_store), Forwarded(without)
        before = 0
        for step in range(4):
            done, tokens = counting.of(messages, alignment, sampling=sampling, output=output)
            expected, all_tokens = plain.of(messages, alignment, sampling=sampling, output=output)
            assert done.token_ids == expected.token_ids
            assert expected.usage.cached_prompt_tokens == 0
            if step:
                assert done.usage.cached_prompt_tokens >= before - 12  # up to the instruction or the answer's begin
                assert tokens < all_tokens - 0.8 * before
            before = done.usage.prompt_tokens
            (call,) = done.tool_calls
            messages = [
                *messages,
                {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "content": f"it is {step} degrees", "tool_call_id": call["id"]},
            ]


def test_a_base_response_and_the_steered_answer_share_their_prompt_within_one_request():
    steering = Steering(evaluator=ContrastiveEvaluator())
    for settings in (ONE_BY_ONE, WITHOUT):
        with counting_engine(settings) as counting:
            done, tokens = counting.of(ask("who?"), KIND, steering=steering, sampling=GREEDY)
        base, other = prompt_ids(ask("who?")), prompt_ids(instructed(ask("who?"), KIND))
        assert done.usage.cached_prompt_tokens == 0, "nothing was there before the request"
        assert done.usage.base_response_tokens == 8
        prompts = len(base) + len(other) - common(base, other)
        assert tokens <= prompts + 7 + 2 * 8 + 2 * 7
        with counting_engine(WITHOUT) as other_engine:  # which never has a base response in its rows
            direct = Steering(amplification=done.amplification)
            expected, _ = other_engine.of(ask("who?"), KIND, steering=direct, sampling=GREEDY)
        assert done.token_ids == expected.token_ids
        assert done.trace.divergence == pytest.approx(expected.trace.divergence, abs=LOGPROB)


def test_the_score_of_a_base_response_that_fits_a_pass_takes_one_pass():
    passes: list[int] = []
    sampling = Sampling(temperature=2.0, top_p=None, seed=1, max_new_tokens=300)
    with counting_engine() as counting:
        counting.engine.model.register_forward_hook(lambda *_: passes.append(1))
        steering = Steering(evaluator=ContrastiveEvaluator())
        done = counting.engine.generate(user("x"), KIND, steering=steering, sampling=sampling)
    assert done.usage.base_response_tokens == done.usage.completion_tokens == 300
    assert len(passes) <= 2 + 299 + 1 + 299, "two for the prompts, and one for the score"


def test_a_plain_question_after_a_score_guided_one_forwards_one_token_of_the_prompt():
    with counting_engine() as counting:
        counting.of(ask("who?"), KIND, steering=Steering(evaluator=ScriptedEvaluator([20])), sampling=GREEDY)
        done, tokens = counting.of(ask("who?"), sampling=GREEDY)
    assert done.usage.cached_prompt_tokens == done.usage.prompt_tokens - 1
    assert tokens == 8


async def test_users_with_one_system_prompt_share_it_at_once_and_one_after_the_other():
    def chat(name):
        return [{"role": "system", "content": CONTEXT}, *user(f"i am {name}, who are you?")]

    with counting_engine() as counting:
        await counting.engine.agenerate(chat("ada"), KIND, sampling=GREEDY)
        names = [f"user {number}" for number in range(8)]
        done = await asyncio.gather(*(counting.engine.agenerate(chat(name), KIND, sampling=GREEDY) for name in names))
    for name, completion in zip(names, done, strict=True):
        assert completion.usage.cached_prompt_tokens >= common(prompt_ids(chat("ada")), prompt_ids(chat(name)))
        assert completion.usage.cached_prompt_tokens > 0.7 * completion.usage.prompt_tokens


# --- what is not


def test_without_a_prefix_cache_nothing_is_reused_and_the_answers_are_the_same():
    questions = [ask(f"question {number}") for number in range(6)] * 2
    with counting_engine() as counting, counting_engine(WITHOUT) as without:
        for number, question in enumerate(questions):
            alignment = (None, KIND, POET)[number % 3]
            done, tokens = counting.of(question, alignment, sampling=GREEDY)
            plain, all_tokens = without.of(question, alignment, sampling=GREEDY)
            assert (done.token_ids, done.text) == (plain.token_ids, plain.text)
            assert done.trace.divergence == pytest.approx(plain.trace.divergence, abs=LOGPROB)
            assert plain.usage.cached_prompt_tokens == 0
            assert tokens < 0.6 * all_tokens or number == 0
        assert stored(without.engine) == 0


def test_models_never_share():
    with (
        counting_engine(seed=0) as one,
        counting_engine(seed=1) as other,
        counting_engine(architecture="gemma3") as third,
    ):
        one.of(ask("who?"), KIND, sampling=GREEDY)
        for counting in (other, third):
            done, tokens = counting.of(ask("who?"), KIND, sampling=GREEDY)
            assert done.usage.cached_prompt_tokens == 0
            assert tokens > done.usage.prompt_tokens


def test_sampling_and_steering_do_not_matter_to_what_is_reused():
    with counting_engine() as counting:
        counting.of(ask("who?"), KIND, sampling=Sampling(temperature=2.0, seed=1, max_new_tokens=20))
        steering = Steering(amplification=1.0, gain=5.0)
        done, _ = counting.of(ask("who?"), KIND, steering=steering, sampling=GREEDY)
        with counting_engine(WITHOUT) as without:
            plain, _ = without.of(ask("who?"), KIND, steering=steering, sampling=GREEDY)
    assert done.usage.cached_prompt_tokens == done.usage.prompt_tokens - 1
    assert done.token_ids == plain.token_ids


def test_a_request_that_was_cancelled_or_failed_leaves_nothing_wrong_behind():
    broken = Steering(temperature_schedule=lambda signals: 1 / 0)
    with counting_engine() as counting, counting_engine(WITHOUT) as without:
        expected, _ = without.of(ask("who?"), KIND, sampling=GREEDY)
        for patience in (1, 2, 5):
            stream = counting.engine.stream(ask("who?"), KIND, sampling=Sampling(temperature=3.0, seed=patience))
            for _ in range(patience):
                next(stream)
            stream.close()
            with pytest.raises(Exception, match="ZeroDivisionError"):
                counting.engine.generate(ask("who?"), KIND, steering=broken, sampling=GREEDY)
            done, _ = counting.of(ask("who?"), KIND, sampling=GREEDY)
            assert done.token_ids == expected.token_ids


# --- bounds


def stored(engine: SteeringEngine) -> int:
    return engine._scheduler._worker._batch._store.tokens


def held(engine: SteeringEngine) -> int:
    return engine._scheduler._worker._batch._memory.tokens


def stored_nodes(engine: SteeringEngine) -> list[_Node]:
    nodes = [engine._scheduler._worker._batch._store._root]
    for node in nodes:  # the list grows by the children of each
        nodes += node.children.values()
    return nodes[1:]


async def test_two_thousand_prompts_stay_under_a_small_cap_and_their_answers_are_right():
    cache_tokens = 2000
    settings = EngineSettings(cache_tokens=cache_tokens, proposals=0)
    sampling = Sampling(temperature=0, max_new_tokens=2)
    texts = [f"{number} {'fox ' * (number % 7)}" for number in range(size(2_000, 250))]
    with counting_engine(settings) as counting, counting_engine(WITHOUT) as without:
        engine = counting.engine
        for start in range(0, len(texts), 40):
            some = texts[start : start + 40]
            done = await asyncio.gather(*(engine.agenerate(user(text), sampling=sampling) for text in some))
            assert stored(engine) <= cache_tokens // 2
            checked = start // 40 % 40
            plain, _ = without.of(user(some[checked]), sampling=sampling)
            assert done[checked].token_ids == plain.token_ids
        assert stored(engine) > cache_tokens // 4, "the store is in use"
        nodes = stored_nodes(engine)
        assert sum(len(node.token_ids) for node in nodes) == stored(engine) == held(engine)
        for node in nodes:  # nothing of something larger
            assert len(node.states) == node.states.block.tokens == len(node.token_ids)
            for state in (state for layer in node.states.block.layers for state in layer):
                assert state.untyped_storage().nbytes() == state.numel() * state.element_size()


def test_rows_and_stored_prefixes_together_stay_under_the_cap():
    cache_tokens = 1000
    most = 0
    with counting_engine(EngineSettings(cache_tokens=cache_tokens)) as counting:
        engine = counting.engine
        for number in range(4):
            messages = user(f"{number} {'fox ' * 80}")
            room = cache_tokens - engine.count_prompt_tokens(messages) - 20
            stream = engine.stream(messages, sampling=Sampling(temperature=2.0, seed=1, max_new_tokens=room))
            for _ in range(30):
                next(stream)
                most = max(most, held(engine))
            stream.close()
    assert most <= cache_tokens


def test_eviction_changes_no_answer():
    """The store holds about two of the prompts, which come back in turn."""
    prompts = [user(f"{number} {CONTEXT}") for number in range(4)]
    tokens = len(prompt_ids(prompts[0]))
    with counting_engine(EngineSettings(cache_tokens=5 * tokens, proposals=0)) as counting:
        with counting_engine(WITHOUT) as without:
            expected = [without.of(prompt, KIND, sampling=GREEDY)[0] for prompt in prompts]
        hits = 0
        for turn in (0, 1, 0, 2, 3, 1, 1, 0, 2, 3, 3, 2, 1, 0, 0):
            done, _ = counting.of(prompts[turn], KIND, sampling=GREEDY)
            assert done.token_ids == expected[turn].token_ids
            assert done.trace.divergence == pytest.approx(expected[turn].trace.divergence, abs=LOGPROB)
            assert stored(counting.engine) <= 5 * tokens // 2
            hits += done.usage.cached_prompt_tokens > tokens // 2
    assert 0 < hits < 15


def test_closing_the_engine_frees_the_store():
    engine = SteeringEngine(tiny_model(), tiny_tokenizer())
    engine.generate(ask("who?"), KIND, sampling=GREEDY)
    assert sum(len(node.token_ids) for node in stored_nodes(engine)) == stored(engine) > 0
    blocks = [weakref.ref(node.states.block) for node in stored_nodes(engine)]
    engine.close()
    assert stored(engine) == 0
    gc.collect()
    assert [each() for each in blocks] == [None] * len(blocks)
