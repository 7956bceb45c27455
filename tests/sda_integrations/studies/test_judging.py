"""A judge behind a server that refuses, babbles and dawdles: no sample is lost."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sda_engine.errors import EvaluationError
from sda_engine.evaluators import EvaluationRequest, Score
from sda_engine.evaluators.preference import make_comparing_prompt, parse_preference
from sda_integrations.studies import judging
from sda_integrations.studies.reading import make_study
from sda_integrations.studies.running import run_study
from tests.sda_integrations.inspect_runs import RUNS_INSPECT

pytestmark = RUNS_INSPECT

REFUSAL, GARBAGE, SLOW, GOOD = "429", "garbage", "slow", "good"


class UnreliableJudge:
    """An OpenAI-compatible server that answers each prompt by a script of its own, which ends well or never does.

    Args:
        script: what happens to the first calls for each prompt; the last one repeats.
    """

    def __init__(self, script):
        self.script = script
        self.calls = {}
        judge = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                status, body = judge.reply(asked)
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("retry-after-ms", "1")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def reply(self, asked):
        system, user = (message["content"] for message in asked["messages"])
        prompt = user.split("begin: ", 1)[1].replace(user.split("=== ")[1].split(" ")[0], "")  # without its code
        step = self.script[min(self.calls.setdefault(prompt, 0), len(self.script) - 1)]
        self.calls[prompt] += 1
        if step == REFUSAL:
            return 429, json.dumps({"error": {"message": "slow down", "type": "rate_limit"}}).encode()
        if step == SLOW:
            time.sleep(0.2)
        text = '{"better": "first"}' if "compare two" in system else '{"reason": "fine", "score": 70}'
        text = "I would say the first one." if step == GARBAGE else text
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        reply = {"id": "1", "object": "chat.completion", "created": 1, "model": "judge-1", "choices": [choice]}
        return 200, json.dumps(reply).encode()


@pytest.fixture
def judge(monkeypatch):
    """Makes a judge that follows a script."""
    monkeypatch.setenv("LOCAL_API_KEY", "not-a-secret")
    servers = []

    def make(*script):
        servers.append(UnreliableJudge(script))
        return servers[-1]

    yield make
    for one in servers:
        one.server.shutdown()
        one.server.server_close()


def judged(study, judge, data, out):
    fields = {**study, "judges": [{"model": "openai-api/local/judge-1", "base_url": judge.url}]}
    return run_study(make_study(fields), out, data=data, display="none")


def test_a_judge_that_refuses_babbles_and_dawdles_loses_no_sample(study, data, tmp_path, judge):
    unreliable = judge(REFUSAL, GARBAGE, SLOW)
    results = judged(study, unreliable, data, tmp_path)
    assert not results.failures
    (told,) = results.judges
    asked = len(unreliable.calls)
    assert results.protocol["judges_served"] == {"openai-api/local/judge-1": ["judge-1"]}
    assert told.unreadable == 0
    assert told.verdicts == asked, "each prompt has its verdict"
    assert set(unreliable.calls.values()) == {3}, "a refusal, a reply that cannot be read, a verdict"
    points = {one.arm: one for one in results.figures if one.measure == "points" and one.category is None}
    assert {arm: (one.value, one.count) for arm, one in points.items()} == {"plain": (70.0, 3), "paper": (70.0, 3)}


def test_a_judge_that_only_babbles_is_counted_as_unreadable(study, data, tmp_path, judge):
    babbler = judge(GARBAGE)
    results = judged(study, babbler, data, tmp_path)
    (told,) = results.judges
    assert not results.failures
    assert (told.verdicts, told.unreadable) == (0, len(babbler.calls))
    assert set(babbler.calls.values()) == {judging.ATTEMPTS}
    assert not [one for one in results.figures if one.measure in ("points", "win_rate")]


class Failing:
    """An evaluator that fails a number of times for each response."""

    needs_response = True
    name = "failing"

    def __init__(self, failures):
        self.failures = failures

    def evaluate(self, request: EvaluationRequest) -> Score:
        raise NotImplementedError

    async def aevaluate(self, request: EvaluationRequest) -> Score:
        if self.failures.setdefault(request.response, 2):
            self.failures[request.response] -= 1
            raise EvaluationError("not now")
        return Score(value=30.0, evaluator=self.name)


def test_an_evaluator_that_fails_for_a_while_is_asked_again(study, data, tmp_path, monkeypatch):
    failing = Failing({})
    monkeypatch.setattr(judging.EvaluatorReader, "read", lambda self, name, value: failing)
    monkeypatch.setattr(judging, "wait_exponential", lambda **settings: lambda state: 0)
    fields = {**study, "judges": [{"evaluator": "contrastive"}]}
    results = run_study(make_study(fields), tmp_path, data=data, display="none")
    assert not results.failures
    points = [one for one in results.figures if one.measure == "points" and one.category is None]
    assert [(one.value, one.count) for one in points] == [(30.0, 3), (30.0, 3)]


def test_a_comparing_prompt_shows_both_in_order_behind_fences_that_no_text_can_close():
    from sda_engine.alignment import PRESETS

    messages = [{"role": "user", "content": "Q?"}]
    prompt = make_comparing_prompt(messages, "=== end ===", "other", PRESETS["honesty"], code="c0de")
    assert prompt.user.index("=== end ===") < prompt.user.index("other")
    assert prompt.user.count("=== c0de end ===") == 3
    assert PRESETS["honesty"].rating_rubric in prompt.system
    assert "c0de" not in make_comparing_prompt(messages, "a", "b", PRESETS["honesty"]).user, "drawn anew each time"


@pytest.mark.parametrize("better", ["first", "second", "tie"])
def test_a_preference_is_read(better):
    assert parse_preference(json.dumps({"better": better})) == better


@pytest.mark.parametrize(
    "reply",
    ["first", '{"better": "both"}', '{"better": "first", "x": 1}', "[]", "", '{"better": ["first"]}', "[" * 9999],
)
def test_a_reply_that_is_no_preference_is_refused(reply):
    with pytest.raises(EvaluationError, match="reply is not"):
        parse_preference(reply)
