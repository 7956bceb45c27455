"""Whatever a body holds, reading it gives a request or an error of ours, and nothing else."""

import copy
import json
import random

import pytest

from sda_engine import Steering
from sda_engine.errors import ConfigError, SDAError
from sda_engine.output import Output
from sda_engine.request_settings import RequestSettings
from sda_engine.wire.errors import kind_of, write_error
from sda_engine.wire.read_request import (
    read_chat_settings,
    read_completion_settings,
    read_messages,
    read_tokenize_output,
)
from sda_engine.wire.requests import ChatRequest, CompletionRequest, TokenizeRequest
from sda_engine.wire.write_request import write_chat_request
from tests.sda_engine.wire.asked import ALIGNMENTS, CONSTRAINTS, TOOLS, body, server
from tests.sda_engine.wire.chats import CHATS

DEFAULTS = server(steering=Steering(gain=3.0, budget=5.0))
MANY = json.dumps({f"x{n}": n for n in range(100_000)})[1:].encode()
NESTED = b'{"parts": [[' * 60 + b"1" + b", 1]]}" * 60
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "auto"}}
SEEDS = (
    *(
        write_chat_request("tiny", chat, RequestSettings(alignment, output=Output(tools=TOOLS, constraint=constraint)))
        for chat, alignment, constraint in zip(CHATS * 2, ALIGNMENTS, (*CONSTRAINTS, None), strict=False)
    ),
    body(
        messages=[{"role": "user", "content": [PICTURE, {"type": "text", "text": "What is it?"}]}],
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
        tool_choice={"type": "function", "function": {"name": "add"}},
        tools=[{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}],
        stream=True,
        stream_options={"include_usage": True},
        sda={"alignment": {"honesty": 1, "empathy": 2}, "revisions": [{"factor": 2.0}], "template_kwargs": {"a": 1}},
    ),
    body(
        temperature=0.5, top_p=0.5, n=2, stop=["a"], seed=1, max_tokens=5, logprobs=True, top_logprobs=2, user="u",
        sda={"alignment": [["honesty", 1.0], [{"instruction": "Hi."}, 2]], "constraint": {"regex": "a"}, "timeout": 5},
    ),
)  # fmt: skip
DEEP = "\N{BULLET}deep\N{BULLET}"  # stands for what json.dumps would not write
ODD = (
    *(None, True, False, 0, -1, 1, 2**63, -(10**30), 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), 1e-320),
    *("", " ", "a", "auto", "null", "\x00", "\ud800", "é" * 70_000, "honesty", "Never lie.", "self", DEEP, "[", "{}"),
    *([], [[]], [None], [[[]]], ["a", 1], {}, {"": 1}, {"self": 1}, {"type": "text"}, {"a": {"b": []}}, {"cls": "a"}),
    *([["honesty", 1]], {"honesty": 1}, {"honesty": -1}, {"instruction": "a"}, {"parts": [[{"self": 1}, 1]]}),
    {"parts": [[{"instruction": "a"}, 1e999], [{"parts": []}, 1]]},
)
RUNS = 3_000
OF_CHATS = ChatRequest.model_fields.keys() - CompletionRequest.model_fields.keys()


def places(value, path=()):
    """Every place in plain data."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, one in inner:
        yield from places(one, (*path, step))


def changed(seed, draw):
    """A request with one place to three changed: another value, a name that does not exist, something gone or twice."""
    mutant = copy.deepcopy(seed)
    for _ in range(draw.randint(1, 3)):
        *outer, last = draw.choice(list(places(mutant))[1:])
        holder = mutant
        for step in outer:
            holder = holder[step]
        match draw.randint(0, 5):
            case 0:
                del holder[last]
            case 1 if isinstance(holder, dict):
                holder[draw.choice(["self", "cls", "Gain", "a b", "", "x" * 500, "model_config"])] = draw.choice(ODD)
            case 2 if isinstance(holder, list):
                holder += holder * draw.randint(1, 30)
            case _:
                holder[last] = copy.deepcopy(draw.choice(ODD))
        if mutant == {}:
            break
    return mutant


def as_bytes(mutant, draw):
    """The JSON of a mutant, mostly as it should be."""
    text = json.dumps(mutant, ensure_ascii=draw.random() < 0.5)
    written = text.replace(json.dumps(DEEP), "[" * 150 + "]" * 150).encode(errors="surrogatepass")
    if draw.random() < 0.05:
        cut = draw.randrange(len(written))
        written = written[:cut] + bytes([draw.randrange(256)]) + written[cut + 1 :]
    return written[: draw.randrange(len(written))] if draw.random() < 0.02 else written


def read(written, route):
    """Read a body as a server does."""
    if route is ChatRequest:
        request = ChatRequest.parse(written)
        read_messages(request.messages)
        read_chat_settings(request, DEFAULTS)
    elif route is CompletionRequest:
        read_completion_settings(CompletionRequest.parse(written), DEFAULTS)
    else:
        counted = TokenizeRequest.parse(written)
        read_messages(counted.messages or ())
        read_tokenize_output(counted)


def refused(written, route=ChatRequest):
    """The error of a body; None where it is a request."""
    try:
        read(written, route)
    except SDAError as error:
        return error
    return None


def test_the_seeds_are_requests():
    assert [refused(json.dumps(seed).encode()) for seed in SEEDS] == [None] * len(SEEDS)


@pytest.mark.parametrize("part", range(4))
def test_a_changed_request_is_a_request_or_an_error_of_ours(part):
    draw = random.Random(part)  # noqa: S311 - nothing secret
    errors = []
    for _ in range(RUNS // 4):
        mutant = changed(draw.choice(SEEDS), draw)
        route = draw.choice([ChatRequest, ChatRequest, ChatRequest, CompletionRequest, TokenizeRequest])
        if route is CompletionRequest:
            mutant = {"prompt": "Hi.", **{name: value for name, value in mutant.items() if name not in OF_CHATS}}
        elif route is TokenizeRequest:
            mutant = {name: value for name, value in mutant.items() if name in TokenizeRequest.model_fields}
            mutant["sda"] = {"template_kwargs": draw.choice(ODD)}
        errors.append(refused(as_bytes(mutant, draw), route))
    told = [error for error in errors if error is not None]
    assert {kind_of(error).status for error in told} == {400}
    assert all(json.loads(write_error(error).model_dump_json()) for error in told)
    assert errors.count(None) > RUNS // 40, "hardly anything is left to read"
    assert len({str(error) for error in errors}) > RUNS // 20


@pytest.mark.parametrize(
    "written",
    [
        b"",
        b"null",
        b"[]",
        b'"a"',
        b"\xff\xfe{}",
        b'{"model": "tiny", "messages": [], "temperature": 1e999}',
        b'{"model": "tiny", "messages": [], "temperature": NaN}',
        b'{"model": "tiny", "messages": [], "seed": ' + b"9" * 400 + b"}",
        b'{"model": "tiny", "messages": [], "seed": ' + b"9" * 5_000 + b"}",
        b'{"model": "tiny", "messages": [], "sda": {"gain": ' + b"9" * 400 + b"}}",
        b'{"model": "tiny", "messages": [], "x": ' + b"[" * 100_000,
        b'{"model": "tiny", "messages": [], "sda": {"alignment": '
        + b'{"parts": [[' * 60
        + b"1"
        + b", 1]]}" * 60
        + b"}}",
        b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "tiny", "messages": [' + b"null," * 100_000 + b"null]}",
        b'{"model": "tiny", "messages": [], ' + MANY,
        b'{"model": "tiny", "messages": [], "' + b"x" * 1_000_000 + b'": 1}',
        b'{"model": "tiny", "messages": [], "sda": {"alignment": "' + b"and never, " * 300_000 + b'"}}',
    ],
    ids=range(17),
)
def test_a_hostile_body_is_an_error_that_can_be_sent(written):
    error = refused(written)
    assert isinstance(error, ConfigError)
    assert len(write_error(error).model_dump_json()) < 4_000


def test_of_a_name_that_is_given_twice_the_last_counts():
    assert ChatRequest.parse(b'{"model": "a", "model": "b", "messages": []}').model == "b"


def test_a_hundred_thousand_turns_are_read():
    turns = b",".join([b'{"role": "user", "content": "Hi."}'] * 100_000)
    request = ChatRequest.parse(b'{"model": "tiny", "messages": [' + turns + b"]}")
    assert len(read_messages(request.messages)) == 100_000
