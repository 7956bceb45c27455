"""An engine whose tokens vLLM decodes: what it asks of vLLM, what it makes of the replies, and how it fails."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from sda_engine import Sampling, Steering
from sda_engine.decoding.wanted import Chosen
from sda_engine.engine_settings import EngineSettings
from sda_engine.errors import (
    CapacityError,
    ConfigError,
    EngineClosedError,
    NumericalError,
    QueueFullError,
    RequestTimeoutError,
    SDAError,
)
from sda_engine.evaluators import ContrastiveEvaluator, SelfRatingEvaluator
from sda_engine.models import ContextWindow, ModelFacts, ModelSettings
from sda_engine.output import Constraint, Output
from sda_engine.testing import ScriptedEvaluator, tiny_tokenizer
from sda_integrations.vllm.engine import VLLMEngine
from sda_integrations.vllm.payload import check_extra_args
from sda_integrations.vllm.reports import Failure, failure_cells, report_cells
from sda_integrations.vllm.task_runner import Decoded, GroupLimits, GroupRequest, TaskRunner, died

QUESTION = [{"role": "user", "content": "Hello"}]
PAPER = Steering(policy="paper")
TOKENIZER = tiny_tokenizer()
END = TOKENIZER.eos_token_id


def step(token_id: int, rows: Sequence[str] = ("base", "instructed")) -> tuple[int, dict[int, float]]:
    """A token with the log-probabilities that tell of its step."""
    chosen = Chosen(
        token_id=token_id,
        broken=False,
        divergence=0.25,
        temperature=0.5,
        position=None,
        spent=None,
        logprob=-1.0,
        row_logprobs=dict.fromkeys(rows, -2.0),
        base=(),
        instructed=(),
        steered=((token_id, -1.0),),
        masked=False,
    )
    return token_id, dict(zip(*report_cells(chosen, None), strict=True))


class FakeVLLM:
    """Answers with the texts that it is given, one token a message, and keeps what it was asked for."""

    def __init__(self, *answers: str | BaseException | Decoded, forever: bool = False) -> None:
        self.answers = list(answers)
        self.asked: list[GroupRequest] = []
        self.alive = True
        self.closed = 0
        self._forever = forever

    async def decode(self, request: GroupRequest, request_id: str) -> AsyncGenerator[Decoded, None]:
        self.asked.append(request)
        check_extra_args(request.extra_args)
        answer = self.answers.pop(0)
        try:
            if isinstance(answer, BaseException):
                raise answer
            if isinstance(answer, Decoded):
                yield answer
                return
            yield Decoded((), 3, None)
            for token_id in TOKENIZER(answer, add_special_tokens=False)["input_ids"]:
                await asyncio.sleep(0)
                yield Decoded((step(token_id),), None, None)
            while self._forever:
                await asyncio.sleep(0.01)
                yield Decoded((), None, None)
            yield Decoded((step(END),), None, "stop")
        finally:
            self.closed += 1


def engine(client: FakeVLLM, **limits: Any) -> VLLMEngine:
    given = GroupLimits(**{"sequences": 8, "tokens": 4000, **limits})
    facts = ModelFacts(ModelSettings(model="tiny"), TOKENIZER, frozenset({END}), ContextWindow(512, 512))
    return VLLMEngine(
        facts,
        TaskRunner(client, given),
        vocab_size=len(TOKENIZER),
        place=("cpu", "float32"),
        cache_tokens=given.tokens,
        settings=EngineSettings(),
    )


async def test_an_answer_comes_in_pieces_and_whole_with_the_figures_of_its_steps():
    client = FakeVLLM("A fine answer.", "A fine answer.")
    asked: dict[str, Any] = {"steering": PAPER, "sampling": Sampling(seed=4)}
    done = await engine(client).agenerate(QUESTION, "honesty", **asked)
    assert done.text == "A fine answer."
    assert (done.finish_reason, done.usage.cached_prompt_tokens) == ("stop", 3)
    assert done.trace.mean_divergence == pytest.approx(0.25, abs=1e-3)
    pieces = [piece async for piece in engine(client).astream(QUESTION, "honesty", **asked)]
    assert "".join(piece.text for piece in pieces) == done.text
    assert len(pieces) > 3


async def test_vllm_is_asked_for_a_group_of_the_rows_that_there_are():
    client = FakeVLLM("x", "x")
    await engine(client).agenerate(QUESTION, None, sampling=Sampling(seed=1))
    await engine(client).agenerate(
        QUESTION, {"honesty": 1.0, "empathy": 1.0}, steering=PAPER, sampling=Sampling(max_new_tokens=9), cache_salt="a"
    )
    plain, several = (request.extra_args["sda"] for request in client.asked)
    assert plain["rows"] == {}
    assert list(several["rows"]) == ["instructed", "instructed 2"]
    assert several["settings"]["sampling"]["seed"] >= 0, "all workers draw alike, whoever named no seed"
    assert (client.asked[0].cache_salt, client.asked[1].max_tokens) == (None, 9)
    assert client.asked[1].cache_salt is not None
    assert list(client.asked[1].prompt[:3]) == several["rows"]["instructed"][:3]


async def test_a_grammar_goes_to_vllm_and_ends_the_answer_where_it_is_whole():
    client = FakeVLLM('{"a": 1} and more')
    schema = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 9}}, "required": ["a"]}
    output = Output(constraint=Constraint.json_schema(schema))
    done = await engine(client).agenerate(QUESTION, "honesty", steering=PAPER, output=output)
    assert done.text == '{"a": 1}'
    assert client.asked[0].grammar is not None
    assert client.asked[0].extra_args["sda"]["settings"]["masked"]


async def test_a_stop_string_ends_the_answer_and_the_group():
    client = FakeVLLM("one two three four", forever=True)
    done = await engine(client).agenerate(QUESTION, None, sampling=Sampling(stop=(" three",)))
    assert done.text == "one two"
    assert client.closed == 1


async def test_the_stages_run_over_vllm_with_a_judge_that_reads_text():
    client = FakeVLLM("A base response.", "A better one.")
    steering = Steering(policy="paper", evaluator=ScriptedEvaluator([30]))
    done = await engine(client).agenerate(QUESTION, "honesty", steering=steering)
    assert (done.base_response, done.text) == ("A base response.", "A better one.")
    assert [len(request.extra_args["sda"]["rows"]) for request in client.asked] == [0, 1]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (died(), EngineClosedError),
        (ConfigError("no"), ConfigError),
        (RuntimeError("a bug"), SDAError),
        (Decoded((), None, "abort"), EngineClosedError),
        (Decoded((), None, "error", "LockStepError: apart"), SDAError),
        (Decoded((), None, "error", "CapacityError: blocks"), CapacityError),
    ],
    ids=["dead", "refused", "a bug", "aborted", "apart", "too large"],
)
async def test_what_vllm_says_becomes_an_error_of_its_kind(answer: Any, error: type[SDAError]):
    with pytest.raises(error) as caught:
        await engine(FakeVLLM(answer)).agenerate(QUESTION, "honesty", steering=PAPER)
    assert type(caught.value) is error


async def test_a_step_that_failed_is_an_error_of_its_request():
    token_id, logprobs = END, dict(zip(*failure_cells(Failure.NO_DISTRIBUTION, END), strict=True))
    client = FakeVLLM(Decoded(((token_id, logprobs),), None, None))
    with pytest.raises(NumericalError):
        await engine(client).agenerate(QUESTION, "honesty", steering=PAPER)


async def test_a_deadline_and_a_cancelled_task_abort_the_group():
    client = FakeVLLM("so long", "so long", forever=True)
    with pytest.raises(RequestTimeoutError):
        await engine(client).agenerate(QUESTION, None, timeout=0.05)
    assert client.closed == 1
    task = asyncio.create_task(engine(client).agenerate(QUESTION, None))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert client.closed == 2


@pytest.mark.parametrize(
    ("limits", "error"),
    [({"sequences": 1}, CapacityError), ({"tokens": 100}, CapacityError), ({"requests": 0}, QueueFullError)],
)
async def test_what_vllm_has_no_room_for_is_refused_at_once(limits: dict[str, Any], error: type[SDAError]):
    client = FakeVLLM("x")
    with pytest.raises(error):
        await engine(client, **limits).agenerate(QUESTION, "honesty", steering=PAPER)
    assert client.asked == []


@pytest.mark.parametrize(
    ("steering", "field"),
    [
        (Steering(guard="report"), "guard"),
        (Steering(evaluator=ContrastiveEvaluator()), "evaluator"),
        (Steering(evaluator=SelfRatingEvaluator()), "evaluator"),
        (Steering(policy="revise", chooser=SelfRatingEvaluator()), "chooser"),
    ],
    ids=["guard", "contrastive", "self-rating", "chooser"],
)
async def test_what_looks_inside_the_model_is_refused_by_name(steering: Steering, field: str):
    client = FakeVLLM("x")
    with pytest.raises(ConfigError) as caught:
        await engine(client).agenerate(QUESTION, "honesty", steering=steering)
    assert caught.value.field == field
    assert client.asked == []


async def test_adapters_and_what_waits_in_a_thread_are_refused():
    client = FakeVLLM("x")
    with pytest.raises(ConfigError, match="adapter"):
        await engine(client).agenerate(QUESTION, None, adapter="french")
    with pytest.raises(ConfigError, match="agenerate"):
        engine(client).generate(QUESTION, None)
    with pytest.raises(ConfigError, match="another process"):
        _ = engine(client).model


async def test_an_engine_whose_vllm_has_stopped_is_not_alive_and_says_so():
    client = FakeVLLM("x")
    client.alive = False
    stopped = engine(client)
    assert not stopped.alive
    with pytest.raises(EngineClosedError, match="stopped"):
        await stopped.agenerate(QUESTION, None)


def test_it_tells_what_it_is():
    made = engine(FakeVLLM())
    assert (made.backend, made.has_evaluators, made.tells_traces) == ("vllm", False, False)
    assert made.describe()["runner"] == "vllm"
    assert made.describe()["device"] == "cpu"
