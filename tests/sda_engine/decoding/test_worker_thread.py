"""What a request may do in the worker thread: nothing that the engine, or another request, suffers from."""

import asyncio
import threading

import pytest

from sda_engine import EngineSettings, Sampling, Steering, SteeringEngine
from sda_engine.decoding.running_batch import RunningBatch
from sda_engine.errors import ConfigError, EngineClosedError, SDAError
from sda_engine.testing import tiny_engine, tiny_model, tiny_tokenizer
from sda_integrations.langchain import ChatSDA
from sda_integrations.llama_index import SDALLM
from tests.conftest import user
from tests.sizes import size

SHORT = Sampling(max_new_tokens=4, temperature=0)


@pytest.fixture
def engine():
    with tiny_engine() as engine:
        yield engine


def in_the_worker(engine, work):
    """A request whose temperature schedule does some work."""

    def schedule(signals):
        work()
        return 0.0

    return engine.generate(user("who?"), "be kind", steering=Steering(temperature_schedule=schedule), sampling=SHORT)


# --- what it raises

ENDS = [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError(), StopIteration(), MemoryError()]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: type(end).__name__)
def test_whatever_a_schedule_raises_fails_its_own_request_and_no_other(engine, end):
    alone = engine.generate(user("me too"), "be kind", sampling=SHORT).token_ids
    together = threading.Barrier(2)
    answers = []

    def wait_for_the_other(signals):
        if not answers:
            answers.append(None)
            together.wait(10)
        return 0.0

    def ask():
        steering = Steering(temperature_schedule=wait_for_the_other)
        answers.append(engine.generate(user("me too"), "be kind", steering=steering, sampling=SHORT).token_ids)

    other = threading.Thread(target=ask)
    other.start()
    together.wait(10)

    def fail():
        raise end

    with pytest.raises(SDAError, match=type(end).__name__) as raised:
        in_the_worker(engine, fail)
    assert raised.value.__cause__ is end
    other.join(10)
    assert answers[1:] == [alone]
    assert engine.generate(user("me too"), "be kind", sampling=SHORT).token_ids == alone


@pytest.mark.parametrize("place", ["pass", "plan"])
def test_an_interpreter_exit_in_a_pass_or_before_it_fails_its_own_request(engine, monkeypatch, place):
    def leave(*_):
        raise SystemExit

    with monkeypatch.context() as patched:
        if place == "plan":
            patched.setattr("sda_engine.decoding.decode_task.DecodeTask._plan", leave)
        else:
            patched.setattr(engine._scheduler._worker._runner, "forward", leave)
        with pytest.raises(SDAError, match="SystemExit"):
            engine.generate(user("who?"), sampling=SHORT)
    assert engine.generate(user("who?"), sampling=SHORT).text


def test_a_loaded_engine_is_never_a_dead_one(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    folder = str(tmp_path)
    first = SteeringEngine.load(folder, dtype="float32")

    def leave():
        raise SystemExit

    with pytest.raises(SDAError):
        in_the_worker(first, leave)
    with SteeringEngine.load(folder, dtype="float32") as again:
        assert again.generate(user("who?"), sampling=SHORT).text
    with pytest.raises(EngineClosedError):
        again.generate(user("who?"), sampling=SHORT)
    with SteeringEngine.load(folder, dtype="float32") as anew:
        assert anew.generate(user("who?"), sampling=SHORT).text


def test_a_fault_between_the_passes_fails_what_is_there_and_the_thread_goes_on(engine, monkeypatch):
    def share_memory(batch, new):
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(RunningBatch, "_share_memory", share_memory)
        for _ in range(2):
            with pytest.raises(SDAError, match="a bug"):
                engine.generate(user("who?"), sampling=SHORT)
    thread = engine._scheduler._worker._thread
    assert engine.generate(user("who?"), sampling=SHORT).text
    assert engine._scheduler._worker._thread is thread


def test_a_thread_that_cannot_be_started_is_tried_again(engine, monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError):
            engine.generate(user("who?"), sampling=SHORT)
    assert engine.generate(user("who?"), sampling=SHORT).text


# --- whether it lives


def test_an_engine_lives_from_the_start_until_it_is_closed(engine):
    assert engine.alive
    engine.generate(user("who?"), sampling=SHORT)
    assert engine.alive
    engine.close()
    assert not engine.alive


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_whose_thread_has_died_says_so_and_takes_no_more_requests(engine, monkeypatch):
    """It takes two faults at once: one of a pass, and one of what fails the requests for it."""

    def fault(*_):
        raise MemoryError("no room")

    engine.generate(user("who?"), sampling=SHORT)
    thread = engine._scheduler._worker._thread
    monkeypatch.setattr(RunningBatch, "step", fault)
    monkeypatch.setattr(RunningBatch, "clear", fault)
    with pytest.raises(SDAError, match="no room"):
        engine.generate(user("who?"), sampling=SHORT)
    thread.join(10)
    assert not engine.alive
    assert not engine.closed
    with pytest.raises(EngineClosedError, match=r"worker thread.*has died.*load a new one"):
        engine.generate(user("who?"), sampling=SHORT)
    engine.close()
    assert not engine.alive


# --- whom it asks

CALLS = {
    "generate": lambda engine: engine.generate(user("who?")),
    "stream": lambda engine: list(engine.stream(user("who?"))),
    "continuation_logprobs": lambda engine: engine.continuation_logprobs(user("who?"), ["I"]),
    "agenerate": lambda engine: asyncio.run(engine.agenerate(user("who?"))),
    "ChatSDA": lambda engine: ChatSDA(engine=engine).invoke("who?"),
    "ChatSDA, threads": lambda engine: ChatSDA(engine=engine).batch(["who?", "what?"]),
    "SDALLM": lambda engine: SDALLM(engine=engine).complete("who?"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_request_that_asks_its_own_engine_from_within_is_refused_and_does_not_wait_for_itself(engine, call):
    with pytest.raises(ConfigError, match=r"asked by its own worker thread.*another engine"):
        in_the_worker(engine, lambda: call(engine))
    assert engine.generate(user("who?"), sampling=SHORT).text


def test_a_request_may_ask_another_engine_from_within(engine):
    with tiny_engine(seed=2) as other:
        answers = []
        in_the_worker(engine, lambda: answers.append(other.generate(user("who?"), sampling=SHORT).text))
    assert len(answers) == 4


def test_a_request_may_close_its_own_engine_from_within():
    with tiny_engine() as engine, pytest.raises(EngineClosedError, match="closed after 1 tokens"):
        in_the_worker(engine, engine.close)


# --- how many wait


@pytest.mark.slow
async def test_requests_wait_for_their_turn_however_many_there_are(engine):
    waiting = size(1_600, 300)
    chat = ChatSDA(engine=engine, max_tokens=1, temperature=0)
    answers = await chat.abatch([f"{number}" for number in range(waiting)])
    assert len(answers) == waiting


async def test_those_that_wait_come_in_their_order_and_may_give_up():
    began = []

    def note(number):
        def schedule(signals):
            if number not in began:
                began.append(number)
            return 0.0

        return Steering(temperature_schedule=schedule)

    model = tiny_model()
    model.generation_config.eos_token_id = []
    with SteeringEngine(model, tiny_tokenizer(), settings=EngineSettings(max_rows=3)) as engine:
        long = Sampling(max_new_tokens=300, temperature=0)
        sampling = [long, *[SHORT] * 5]
        requests = [
            asyncio.create_task(engine.agenerate(user(f"{n}"), "be kind", steering=note(n), sampling=sampling[n]))
            for n in range(6)
        ]
        await asyncio.sleep(0)  # each has joined the queue
        with pytest.raises(TimeoutError):
            await engine.agenerate(user("late"), "be kind", steering=note("late"), sampling=SHORT, timeout=0.01)
        requests[3].cancel()
        done = await asyncio.gather(*requests, return_exceptions=True)
    assert began == [0, 1, 2, 4, 5]
    assert isinstance(done.pop(3), asyncio.CancelledError)
    assert [completion.usage.completion_tokens for completion in done] == [300, *[4] * 4]
