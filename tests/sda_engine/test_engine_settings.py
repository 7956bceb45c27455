"""What EngineSettings accepts, and that every limit in it holds while requests run."""

import asyncio
import time
from contextlib import ExitStack, closing, contextmanager

import pytest

from sda_engine import Alignment, EngineSettings, Sampling, Steering, SteeringEngine
from sda_engine.errors import CapacityError, ConfigError, QueueFullError, RequestTimeoutError, SDAError
from sda_engine.evaluators import FixedScore
from sda_engine.testing import ScriptedEvaluator, tiny_model, tiny_tokenizer
from tests.conftest import user
from tests.sizes import size

POLITE = Alignment(instruction="be polite", avoid="be rude", name="polite")
LONG = Sampling(temperature=2.0, top_p=None, seed=1, max_new_tokens=1500)
SHORT = Sampling(temperature=0, max_new_tokens=6)
REQUESTS = size(8, 4)  # more than there is memory for


@contextmanager
def endless_engine(**settings):
    """An engine on a model that never ends an answer by itself."""
    model = tiny_model()
    model.generation_config.eos_token_id = []
    with SteeringEngine(model, tiny_tokenizer(), settings=EngineSettings(**settings)) as engine:
        yield engine


@contextmanager
def passes_of(engine):
    """Each forward pass as the number of tokens of each of its rows."""
    passes: list[list[int]] = []

    def note(module, args, kwargs):
        passes.append([len(segment.token_ids) for segment in kwargs["forward_pass"].segments])

    hook = engine.model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield passes
    finally:
        hook.remove()


@contextmanager
def running(engine, count=1, sampling=LONG, **arguments):
    """So many answers that are being decoded."""
    with ExitStack() as stack:
        for number in range(count):
            stream = engine.stream(user(f"long {number}"), sampling=sampling, **arguments)
            stack.enter_context(closing(stream))
            next(stream)
        yield


# --- what is legal


@pytest.mark.parametrize(
    ("name", "value", "legal"),
    [
        ("max_rows", 2, "a whole number of at least 3"),
        ("max_rows", 8.0, "a whole number of at least 3"),
        ("max_rows", "64", "a whole number of at least 3"),
        ("max_rows", None, "a whole number of at least 3"),
        ("max_requests", 0, "a whole number of at least 1, or None"),
        ("max_requests", True, "a whole number of at least 1, or None"),
        ("cache_tokens", 0, "a whole number of at least 1, or None"),
        ("cache_tokens", -5, "a whole number of at least 1, or None"),
        ("cache_tokens", "1GB", "a whole number of at least 1, or None"),
        ("prefix_cache", 1, "True or False"),
        ("prefix_cache", "yes", "True or False"),
        ("prefix_cache", None, "True or False"),
        ("proposals", -1, "a whole number from 0 to 64"),
        ("proposals", 65, "a whole number from 0 to 64"),
        ("proposals", False, "a whole number from 0 to 64"),
        ("prefill_chunk", 0, "a whole number of at least 1"),
        ("prefill_chunk", float("inf"), "a whole number of at least 1"),
        ("max_pictures", -1, "a whole number of at least 0"),
        ("max_picture_pixels", 0, "a whole number of at least 1"),
        ("max_picture_bytes", 0.5, "a whole number of at least 1"),
    ],
)
def test_a_wrong_value_is_an_error_that_says_the_value_what_is_legal_and_the_default(name, value, legal):
    with pytest.raises(ConfigError) as raised:
        EngineSettings(**{name: value})
    default = EngineSettings.model_fields[name].default
    assert str(raised.value) == (
        f"EngineSettings.{name} cannot be {value!r}: it must be {legal}. The default is {default!r}."
    )


@pytest.mark.parametrize("name", EngineSettings.model_fields)
def test_the_edges_of_what_is_legal_are_legal(name):
    edges = {
        "max_rows": (3, 10_000),
        "max_requests": (1, 10**6),
        "cache_tokens": (1, None),
        "prefix_cache": (True, False),
        "proposals": (0, 64),
        "prefill_chunk": (1, 10**6),
        "max_pictures": (0, 10**6),
        "max_picture_pixels": (1, 10**9),
        "max_picture_bytes": (1, 10**9),
    }
    for value in edges[name]:
        assert getattr(EngineSettings(**{name: value}), name) == value


def test_unknown_names_unnamed_values_and_changes_are_refused():
    with pytest.raises(ConfigError, match=r"no field 'max_row'\. Did you mean 'max_rows'\?"):
        EngineSettings(max_row=4)
    with pytest.raises(ConfigError, match="takes its fields by name"):
        EngineSettings(64)
    settings = EngineSettings()
    with pytest.raises(ValueError, match="frozen"):
        settings.max_rows = 8
    with pytest.raises(ConfigError, match="max_rows cannot be 1"):
        settings.replace(max_rows=1)
    assert settings.replace(max_rows=8).max_rows == 8
    assert EngineSettings(max_rows=8) == EngineSettings(max_rows=8) != settings


@pytest.mark.parametrize("settings", [None, {"max_rows": 8}, 64, EngineSettings, Sampling()])
def test_an_engine_takes_nothing_else_as_its_settings(settings):
    with pytest.raises(ConfigError, match=r"settings cannot be .*: it must be an EngineSettings, e\.g\."):
        SteeringEngine(tiny_model(), tiny_tokenizer(), settings=settings)
    if settings is not None:  # which to `load` means the settings of whoever has loaded the model
        with pytest.raises(ConfigError, match="it must be an EngineSettings"):
            SteeringEngine.load("./no/such/folder", settings=settings)


# --- one engine per model


@pytest.fixture
def folder(tmp_path):
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_the_same_settings_load_the_same_engine_and_others_only_after_its_end(folder):
    question = {"messages": user("who?"), "alignment": "be kind", "sampling": SHORT}
    with SteeringEngine.load(folder) as plain:
        assert SteeringEngine.load(folder, settings=EngineSettings()) is plain
        assert SteeringEngine.load(folder, settings=EngineSettings(proposals=8)) is plain
        with pytest.raises(ConfigError, match=r"proposals=0.*is loaded already"):
            SteeringEngine.load(folder, settings=EngineSettings(proposals=0))
        answer = plain.generate(**question).token_ids
    with SteeringEngine.load(folder, settings=EngineSettings(proposals=0)) as other:
        assert other.generate(**question).token_ids == answer


# --- max_requests


def test_one_request_too_many_is_refused_within_the_call_and_taken_later():
    with endless_engine(max_requests=2) as engine:
        with running(engine, 2):
            for ask in (engine.generate, lambda *a, **s: next(engine.stream(*a, **s))):
                start = time.monotonic()
                with pytest.raises(
                    QueueFullError, match=r"has taken on 2 requests.*Try again.*max_requests="
                ) as raised:
                    ask(user("who?"), "be kind", sampling=SHORT)
                assert time.monotonic() - start < 0.05
                assert isinstance(raised.value, SDAError)
        assert engine.generate(user("who?"), "be kind", sampling=SHORT).usage.completion_tokens == 6


async def test_one_async_request_too_many_is_refused_and_the_others_are_answered():
    with endless_engine(max_requests=3) as engine:
        asked = [engine.agenerate(user(f"{number}"), "be kind", sampling=SHORT) for number in range(8)]
        results = await asyncio.gather(*asked, return_exceptions=True)
        kinds = [type(result) for result in results]
        assert kinds.count(QueueFullError) == 5
        assert [result.usage.completion_tokens for result in results if not isinstance(result, Exception)] == [6] * 3


def test_requests_that_wait_count_and_those_that_were_given_up_do_not():
    with endless_engine(max_requests=2, max_rows=3) as engine, running(engine, 1, alignment="be kind"):
        for _ in range(4):  # two rows do not fit beside two, so each waits until its time is over
            with pytest.raises(RequestTimeoutError):
                engine.generate(user("who?"), "be kind", sampling=SHORT, timeout=0.02)


class AsksTheModel(FixedScore):
    """Rates by what the model itself says, and calls somebody meanwhile."""

    needs_response = True

    def __init__(self, long_question="", meanwhile=lambda: None):
        super().__init__(20)
        self.long_question, self.meanwhile = long_question, meanwhile

    def evaluate(self, request):
        self.meanwhile()
        assert request.model.continuation_logprobs(user(self.long_question or "good?"), ["yes"]).isfinite().all()
        return super().evaluate(request)

    async def aevaluate(self, request):
        return await asyncio.to_thread(self.evaluate, request)


async def test_a_request_counts_while_it_is_rated_and_what_its_evaluator_asks_the_model_does_not():
    with endless_engine(max_requests=1) as engine:

        def refused():
            with pytest.raises(QueueFullError):
                engine.generate(user("and me?"), sampling=SHORT)

        steering = Steering(evaluator=AsksTheModel(meanwhile=refused))
        for done in (
            engine.generate(user("who?"), "be kind", steering=steering, sampling=SHORT),
            await engine.agenerate(user("who?"), "be kind", steering=steering, sampling=SHORT),
        ):
            assert (done.score.value, done.usage.completion_tokens) == (20, 6)


# --- cache_tokens


@pytest.mark.parametrize(("alignment", "rows"), [(None, 1), ("be kind", 2), (POLITE, 3)])
def test_a_request_that_can_never_fit_is_refused_at_once_with_the_remedy(alignment, rows):
    with endless_engine(cache_tokens=100 * rows) as engine, passes_of(engine) as passes:
        with pytest.raises(CapacityError) as raised:
            engine.generate(user("who?"), alignment, sampling=Sampling(max_new_tokens=100))
        message = str(raised.value)
        for part in (f"may hold {100 * rows}", "fewer new tokens", "shorten the messages", "cache_tokens="):
            assert part in message
        assert passes == []
        sampling = Sampling(max_new_tokens=40, temperature=0)
        assert engine.generate(user("who?"), alignment, sampling=sampling).usage.completion_tokens == 40


async def test_requests_wait_for_memory_and_none_of_them_fails():
    with endless_engine(cache_tokens=150) as engine, passes_of(engine) as passes:
        sampling = Sampling(temperature=0, max_new_tokens=60)  # with the prompt half of the memory and more
        asked = [engine.agenerate(user(f"question {number}"), sampling=sampling) for number in range(5)]
        done = await asyncio.gather(*asked)
    assert [completion.usage.completion_tokens for completion in done] == [60] * 5
    assert max(map(len, passes)) == 1, "two of them do not fit"


async def test_score_guided_requests_that_wait_for_each_others_memory_all_come_to_an_end():
    with endless_engine(cache_tokens=400, max_rows=3) as engine:
        steering = [Steering(evaluator=ScriptedEvaluator([20])) for _ in range(REQUESTS)]
        asked = [
            engine.agenerate(user(f"q {number}"), POLITE, steering=each, sampling=Sampling(max_new_tokens=60, seed=1))
            for number, each in enumerate(steering)
        ]
        done = await asyncio.wait_for(asyncio.gather(*asked), 60)
    assert [completion.usage.completion_tokens for completion in done] == [60] * REQUESTS


def slow_down(engine):
    """An answer of 1500 tokens then takes more than four seconds."""
    engine.model.register_forward_hook(lambda *_: time.sleep(0.003))


def test_a_request_that_was_given_up_while_it_waited_stands_in_nobodys_way():
    """The first waits for memory that it will never need: the one behind it fits beside what runs."""
    with endless_engine(cache_tokens=2500) as engine, running(engine, 1):
        slow_down(engine)
        with pytest.raises(RequestTimeoutError):
            engine.generate(user("large"), sampling=LONG, timeout=0.05)
        assert engine.generate(user("small"), sampling=SHORT, timeout=2.5).usage.completion_tokens == 6


def test_requests_that_were_given_up_while_they_waited_do_not_pile_up():
    with endless_engine(cache_tokens=2500, max_requests=2) as engine, running(engine, 1):
        slow_down(engine)
        for _ in range(20):
            with pytest.raises(RequestTimeoutError):
                engine.generate(user("large"), sampling=LONG, timeout=0.01)
        time.sleep(0.1)
        assert len(engine._scheduler._worker._waiting) <= 2


def test_by_default_an_engine_may_hold_what_fits_in_half_of_the_free_memory():
    with endless_engine() as engine:
        tokens = engine._scheduler._worker._cache_tokens
        assert tokens > 10_000, "a token of the tiny model takes half a kilobyte"
        assert engine.generate(user("who?"), sampling=SHORT).usage.completion_tokens == 6


@pytest.mark.parametrize("prefix_cache", [True, False])
@pytest.mark.parametrize("alignment", ["be kind", POLITE])
async def test_an_evaluator_may_need_the_memory_that_its_own_request_holds(alignment, prefix_cache):
    """The request holds much of the memory, and its evaluator asks for nearly all of it: both come to an end."""
    steering = Steering(evaluator=AsksTheModel("good? " * 60))
    ask = {"steering": steering, "sampling": SHORT.replace(max_new_tokens=60)}
    with endless_engine() as engine:
        wanted = engine.generate(user("who?"), alignment, **ask)
    with endless_engine(cache_tokens=380, prefix_cache=prefix_cache) as engine:
        done = await asyncio.gather(*(engine.agenerate(user("who?"), alignment, **ask) for _ in range(3)))
    assert [one.token_ids for one in done] == [wanted.token_ids] * 3
    assert {one.usage.cached_prompt_tokens for one in done} <= {0, *range(1, wanted.usage.prompt_tokens)}


# --- max_rows and prefill_chunk


@pytest.mark.parametrize(("max_rows", "alignment"), [(3, POLITE), (5, "be kind"), (4, None)])
async def test_no_pass_has_more_rows_than_max_rows(max_rows, alignment):
    questions = [user(f"question {number}") for number in range(9)]
    with endless_engine(max_rows=max_rows) as engine:
        alone = [engine.generate(question, alignment, sampling=SHORT).token_ids for question in questions]
        with passes_of(engine) as passes:
            asked = [engine.agenerate(question, alignment, sampling=SHORT) for question in questions]
            done = await asyncio.gather(*asked)
    assert [completion.token_ids for completion in done] == alone
    assert max(map(len, passes)) <= max_rows
    assert max(map(len, passes)) > max_rows - 2, "there was room for more"


@pytest.mark.parametrize("prefill_chunk", [1, 10, 64])
def test_a_long_prompt_comes_in_pieces_while_others_decode(prefill_chunk):
    long_prompt = user("the quick brown fox " * 30)
    with endless_engine(prefill_chunk=prefill_chunk, proposals=0, prefix_cache=False) as engine:
        alone = engine.generate(long_prompt, "be kind", sampling=SHORT).token_ids
        with running(engine, 1), passes_of(engine) as passes:
            assert engine.generate(long_prompt, "be kind", sampling=SHORT).token_ids == alone
        assert max(map(sum, passes)) <= max(prefill_chunk, 2) + 1  # its own two rows, once they decode
        prompt = engine.count_prompt_tokens(long_prompt)
        assert sum(sum(tokens) > 3 for tokens in passes) >= prompt // (prefill_chunk + 1) or prefill_chunk == 1
        assert all(1 in tokens for tokens in passes), "the other one went on in every pass"
