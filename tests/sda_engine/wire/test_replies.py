"""What a server's engine answers is what its client gets, whole or in chunks."""

import json
import math
from dataclasses import replace

import pytest

from sda_engine import Sampling, Steering
from sda_engine.choosing import Attempt, Revision
from sda_engine.errors import SDAError
from sda_engine.evaluators import Score
from sda_engine.output import Output
from sda_engine.results import (
    Candidate,
    Completion,
    GeneratedTokenLogprobs,
    Piece,
    TokenLogprob,
    ToolCallDelta,
    Trace,
    TraceMeans,
    TraceToken,
    TraceWarning,
    Usage,
)
from sda_engine.testing import ScriptedEngine, call_text
from sda_engine.wire.read_reply import ChunkReader, read_completion
from sda_engine.wire.replies import ChatChunk, ChatReply
from sda_engine.wire.write_reply import LEAST_LOGPROB, ReplyWriter
from tests.conftest import user
from tests.sda_engine.wire.asked import TOOLS
from tests.thinking import QWEN3

ALL = ReplyWriter("chatcmpl-1", 1_700_000_000, "tiny", trace=True, token_ids=True)
SPARING = ReplyWriter("chatcmpl-1", 1_700_000_000, "tiny")

TOKENS = (
    TraceToken(5, "Ye", 0.1, 0.5, -0.2, (Candidate("Ye", 0.9),), (Candidate("No", 0.8),), (Candidate("Ye", 1.0),), 0.9),
    TraceToken(6, "s", 0.3, 0.25, -0.1, strength=0.9, position=0.5, spent=1.5),
    TraceToken(1, "", 0.0, 0.0, 0.0, forced=True),
)
WARNINGS = (TraceWarning("repetition", 1, "'s' twice", 0.9, 0.45), TraceWarning("thought_cut", 2, "at 2", 0.9))
LOGPROBS = (
    GeneratedTokenLogprobs(TokenLogprob(5, "Ye", -0.2), (TokenLogprob(5, "Ye", -0.2), TokenLogprob(9, "ß", -3.5))),
    GeneratedTokenLogprobs(TokenLogprob(6, "\N{REPLACEMENT CHARACTER}", -0.1), ()),
)
CALL = {"type": "function", "id": "a1b2c3d4e", "function": {"name": "add", "arguments": {"a": 1, "b": ["ß", None]}}}
RICH = Completion(
    text="Yes",
    token_ids=(5, 6, 1),
    finish_reason="tool_calls",
    usage=Usage(10, 3, base_response_tokens=4, cached_prompt_tokens=8, dropped_tokens=5),
    trace=Trace(TOKENS, "honesty+empathy", 0.9, WARNINGS),
    tool_calls=(CALL,),
    invalid_tool_calls=({"index": 1, "id": "b2", "name": None, "text": '{"na', "error": "cut off"},),
    reasoning="Let me see.",
    base_response="No",
    score=Score(value=60.0, evaluator="ContrastiveEvaluator(sharpness=4.0)", reason="it says so", samples=(50.0, 70.0)),
    amplification=0.45,
    logprobs=LOGPROBS,
    attempts=(
        Attempt(
            "Yes", 0.9, Revision(factor=2.0, budget=12.0), score=70.0, chooser="SelfRatingEvaluator()", chosen=True
        ),
        Attempt("No", 0.4, Revision(sees="answer", reserve=None, goes_on=True), lost="it is empty"),
    ),
)
PLAIN = Completion("", (1,), "stop", Usage(10, 1), Trace(TOKENS[2:]))


def reply(completion, writer=ALL):
    """A reply that has been JSON on its way."""
    return ChatReply.model_validate_json(writer.reply([completion]).model_dump_json())


@pytest.mark.parametrize("completion", [RICH, PLAIN, replace(RICH, text="", tool_calls=()), replace(RICH, score=None)])
def test_a_completion_comes_back_whole(completion):
    assert read_completion(reply(completion)) == completion


def test_without_trace_and_ids_the_figures_stay():
    written = SPARING.reply([RICH]).model_dump_json()
    assert "token_id" not in written
    got = read_completion(ChatReply.model_validate_json(written))
    means = TraceMeans(RICH.trace.mean_divergence, RICH.trace.mean_temperature)
    assert got.trace == Trace((), "honesty+empathy", 0.9, WARNINGS, means)
    assert got.trace.mean_divergence == RICH.trace.mean_divergence
    assert got.token_ids == ()
    assert [place.chosen.token_id for place in got.logprobs] == [-1, -1]
    rest = {"trace": got.trace, "token_ids": (), "logprobs": got.logprobs}
    assert got == replace(RICH, **rest)


def test_a_reply_is_openais_with_one_field_more():
    told = json.loads(SPARING.reply([PLAIN]).model_dump_json())
    assert told == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "tiny",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": 1,
            "total_tokens": 11,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
        "sda": {
            "alignment": None,
            "amplification": None,
            "strength": 0.0,
            "score": None,
            "base_response": None,
            "base_response_tokens": 0,
            "dropped_tokens": 0,
            "mean_divergence": 0.0,
            "mean_temperature": 0.0,
            "warnings": [],
            "attempts": [],
            "invalid_tool_calls": [],
        },
    }


def test_of_several_answers_each_has_its_figures_and_the_prompt_counts_once():
    told = replace(SPARING, choices=2).reply([RICH, PLAIN])
    assert told.sda is None
    assert [choice.sda.alignment for choice in told.choices] == ["honesty+empathy", None]
    assert [choice.index for choice in told.choices] == [0, 1]
    usage = told.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (10, 3 + 4 + 5 + 1, 23)
    assert usage.prompt_tokens_details.cached_tokens == 8
    chunk = replace(ALL, choices=2).chunk(1, Piece(token_ids=(1,), completion=PLAIN, trace=TOKENS[2:]))
    assert chunk.sda is None
    assert (chunk.choices[0].index, chunk.choices[0].sda.token_ids) == (1, (1,))


def pieces_of(engine, **options):
    """The pieces of a stream, with the trace of their tokens."""
    pieces = list(engine.stream(user("What is 1 + 2?"), "honesty", **options))
    told, place = [], 0
    for piece in pieces:
        trace = pieces[-1].completion.trace.tokens[place : place + len(piece.token_ids)]
        told.append(replace(piece, trace=trace))
        place += len(piece.token_ids)
    assert place == len(pieces[-1].completion.trace.tokens)
    return told


def without_ids(logprobs):
    """Log-probabilities as they are told where nobody asked for ids."""
    return logprobs and tuple(
        GeneratedTokenLogprobs(replace(place.chosen, token_id=-1), tuple(replace(t, token_id=-1) for t in place.top))
        for place in logprobs
    )


def read_stream(pieces, writer, *, usage_apart=True):
    """What a client reads of the chunks of a stream."""
    reader, read = ChunkReader(), []
    chunks = [writer.first_chunk(0), *(writer.chunk(0, piece) for piece in pieces)]
    chunks = [chunk for chunk in chunks if chunk is not None]
    usage = writer.usage_chunk([pieces[-1].completion.usage])
    chunks = [*chunks, usage] if usage_apart else [*chunks[:-1], chunks[-1].model_copy(update={"usage": usage.usage})]
    for chunk in chunks:
        read.append(reader.add(ChatChunk.model_validate_json(chunk.model_dump_json())))
    return [piece for piece in read if piece is not None], reader


SCRIPTS = {
    "text": ("Three — Ünïcödé \N{GRINNING FACE}.", None, {"sampling": Sampling(logprobs=2)}),
    "a plain answer": ("Three.", None, {"steering": Steering(policy="revise", amplification=0.5)}),
    "thought": ("<think>\nOne and two.\n</think>\n\nThree.", QWEN3, {}),
    "calls": (
        call_text("add", {"a": 1, "b": 2}) + "\n" + call_text("add", {"a": 3, "b": 4}),
        None,
        {"output": Output(tools=TOOLS, parallel_tool_calls=True)},
    ),
    "a call that is cut off": (
        "So: " + call_text("add", {"a": 1, "b": 234567890123456789}),
        None,
        {"output": Output(tools=TOOLS), "sampling": Sampling(max_new_tokens=30)},
    ),
    "cut off": ("One two three four five six", None, {"sampling": Sampling(max_new_tokens=3)}),
}


@pytest.fixture(scope="module", params=SCRIPTS)
def pieces(request):
    script, template, options = SCRIPTS[request.param]
    settings = {} if template is None else {"chat_template": template}
    with ScriptedEngine(script, **settings) as engine:
        yield pieces_of(engine, **options)


@pytest.mark.parametrize("usage_apart", [True, False])
def test_the_chunks_of_a_stream_make_the_whole_completion(pieces, usage_apart):
    read, reader = read_stream(pieces, ALL, usage_apart=usage_apart)
    whole = pieces[-1].completion
    assert read[-1].completion == whole == read_completion(reply(whole))
    assert "".join(piece.text for piece in read) == reader.text == whole.text
    assert "".join(piece.reasoning for piece in read) == whole.reasoning
    assert sum((piece.token_ids for piece in read), ()) == whole.token_ids
    assert sum((piece.trace for piece in read), ()) == whole.trace.tokens
    assert [piece.completion for piece in read[:-1]] == [None] * (len(read) - 1)
    assert [call for piece in read for call in piece.tool_calls] == [c for piece in pieces for c in piece.tool_calls]


def test_a_stream_without_trace_and_ids_makes_the_same_text_calls_and_figures(pieces):
    read, _ = read_stream(pieces, SPARING)
    whole, got = pieces[-1].completion, read[-1].completion
    same = {"token_ids": (), "trace": got.trace, "logprobs": without_ids(whole.logprobs)}
    assert got == replace(whole, **same)
    assert got.trace.mean_divergence == whole.trace.mean_divergence
    assert sum((piece.logprobs for piece in read), ()) == (got.logprobs or ())
    assert Piece() not in read


def test_the_last_chunk_has_the_figures_of_the_whole():
    last = Piece("s", token_ids=(6, 1), logprobs=LOGPROBS[1:], completion=RICH, trace=TOKENS[1:])
    begun = ToolCallDelta(0, "a1b2c3d4e", "add", '{"a": 1, ')
    first = Piece("Ye", "Let me see.", (begun,), token_ids=(5,), logprobs=LOGPROBS[:1], trace=TOKENS[:1])
    middle = Piece(tool_calls=(ToolCallDelta(0, None, None, '"b": ["ß", null]}'), ToolCallDelta(1, "b2", "ad", '{"na')))
    read, _ = read_stream([first, middle, last], ALL)
    assert read[-1].completion == RICH
    assert read[:-1] == [first, middle]


@pytest.mark.parametrize(
    "chunks",
    [
        [ALL.usage_chunk([PLAIN.usage])],
        [ALL.chunk(0, Piece(completion=PLAIN)).model_copy(update={"sda": None})],
        [ALL.chunk(0, Piece(completion=PLAIN)), ALL.chunk(0, Piece("more"))],
        [replace(ALL, choices=2).chunk(0, Piece("a")).model_copy(update={"choices": ALL.first_chunk(0).choices * 2})],
    ],
)
def test_a_stream_that_is_none_of_ours_is_an_error(chunks):
    reader = ChunkReader()
    for chunk in chunks[:-1]:
        reader.add(chunk)
    with pytest.raises(SDAError, match="no server of sda-integrations"):
        reader.add(chunks[-1])


@pytest.mark.parametrize("change", [{"sda": None}, {"choices": ()}, {"choices": SPARING.reply([PLAIN]).choices * 2}])
def test_a_reply_that_is_none_of_ours_is_an_error(change):
    with pytest.raises(SDAError, match="no server of sda-integrations"):
        read_completion(SPARING.reply([PLAIN]).model_copy(update=change))


@pytest.mark.parametrize("arguments", ["{", "[]", "1"])
def test_a_whole_call_without_arguments_that_are_an_object_is_an_error(arguments):
    told = json.loads(ALL.reply([RICH]).model_dump_json())
    told["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] = arguments
    with pytest.raises(SDAError, match="no server of sda-integrations"):
        read_completion(ChatReply.model_validate(told))


def test_a_client_reads_past_what_a_later_server_tells_more():
    told = json.loads(ALL.reply([RICH]).model_dump_json())
    for place in (told, told["sda"], told["choices"][0], told["usage"], told["sda"]["trace"][0], told["sda"]["score"]):
        place["later"] = {"x": 1}
    assert read_completion(ChatReply.model_validate(told)) == RICH


def test_what_json_cannot_write_never_gets_out():
    bad = replace(TOKENS[0], logprob=-math.inf, divergence=math.nan, temperature=math.inf)
    likely = GeneratedTokenLogprobs(TokenLogprob(5, "Ye", -math.inf), (TokenLogprob(6, "s", math.nan),))
    completion = replace(RICH, trace=Trace((bad,), strength=math.inf), logprobs=(likely,))
    chunk = ALL.chunk(0, Piece("Yes", logprobs=(likely,), completion=completion, trace=(bad,)))
    for written in (ALL.reply([completion]).model_dump_json(), chunk.model_dump_json()):
        told = json.loads(written, parse_constant=pytest.fail)
        place = told["choices"][0]["logprobs"]["content"][0]
        assert (place["logprob"], place["top_logprobs"][0]["logprob"]) == (LEAST_LOGPROB, LEAST_LOGPROB)
        assert told["sda"]["trace"][0]["logprob"] == LEAST_LOGPROB


def test_half_a_surrogate_pair_in_a_call_stays_an_escape():
    call = {**CALL, "function": {"name": "add", "arguments": {"a": "\ud800", "b": "ß"}}}
    assert read_completion(reply(replace(RICH, tool_calls=(call,)))).tool_calls == (call,)


CANARY = "http://10.1.2.3/canary-in-a-name"


def test_no_name_and_no_failure_of_an_evaluator_gets_out():
    judge = Score(value=60.0, evaluator=f"OpenAIEvaluator({CANARY})", reason="It is warm.")
    ensemble = Score(
        value=60.0,
        evaluator=f"EnsembleEvaluator([{CANARY}])",
        reason=f"{CANARY} failed, {CANARY} 60",
        members=(judge,),
        failures=(f"{CANARY}: refused",),
    )
    fallen = Score(value=None, evaluator=CANARY, reason=f"EvaluationError: {CANARY}", fallback="instruct_only")
    writer = replace(ALL, evaluator_name=lambda name: "judge" if CANARY in name else name)
    attempts = (replace(RICH.attempts[0], chooser=f"OpenAIEvaluator({CANARY})"),)
    for score, reason in (
        (judge, "It is warm."),
        (ensemble, None),
        (fallen, "The evaluator failed; the server's log tells why."),
    ):
        told = writer.reply([replace(RICH, score=score, attempts=attempts)])
        assert "canary" not in told.model_dump_json()
        assert (told.sda.score.evaluator, told.sda.score.reason) == ("judge", reason)
        assert told.sda.attempts[0].chooser == "judge"
    assert writer.reply([replace(RICH, score=ensemble)]).sda.score.members[0].reason == "It is warm."
