"""Settings tried on questions of one's own: what counts, and which setting is recommended."""

import json

import pytest

from sda_engine import Alignment, Sampling, Steering
from sda_engine.errors import ConfigError
from sda_engine.evaluation import (
    PLAIN,
    PROMPT,
    Estimate,
    TuneCase,
    TunedArm,
    Tuner,
    holds_words,
    matches,
    read_cases,
    recommend,
    scores_at_least,
    share,
)
from sda_engine.evaluators import ContrastiveEvaluator, EvaluationRequest, FixedScore
from sda_engine.testing import ScriptedEngine, ScriptedEvaluator

POLITE = Alignment(instruction="Say please.")


def request(text):
    return EvaluationRequest([{"role": "user", "content": "q"}], text, POLITE)


def arm(name, kept, both, seconds=1.0, steering=None):
    shares = (Estimate(value, None, None) for value in (kept, both, both, 0.0))
    return TunedArm(name, steering or Steering(), *shares, seconds)


@pytest.fixture
def file(tmp_path):
    def write(*lines):
        path = tmp_path / "cases.jsonl"
        path.write_text("\n".join(lines), encoding="utf-8")
        return path

    return write


def test_a_question_is_a_chat_of_one_turn_and_messages_may_stand_in_its_place(file):
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    one, other = read_cases(
        file('{"question": "What is it?", "keep": ["43"]}', "", json.dumps({"messages": chat, "keep": []}))
    )
    assert one == TuneCase(messages=({"role": "user", "content": "What is it?"},), keep=("43",))
    assert (list(other.messages), other.keep) == (chat, ())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[]", r"line 1: This cannot be \[\]: it must be an object such as"),
        ("{", "line 1: This is no JSON"),
        ('{"keep": ["43"]}', 'line 1: .*"question".*or as "messages"'),
        ('{"question": "q", "keep": "43"}', "line 1: .*keep cannot be '43'"),
        ('{"question": "q", "kept": []}', "line 1: .*kept"),
        ("", "holds no question"),
    ],
)
def test_a_malformed_line_is_told_with_its_number(file, line, message):
    with pytest.raises(ConfigError, match=message):
        read_cases(file(line))


async def test_a_check_is_a_pattern_words_or_a_judges_score():
    assert await matches("^good news")(request("Good news: it is 43."))
    assert not await matches("^good news$")(request("Good news: it is 43."))
    assert await holds_words(["please", "thank you"])(request("PLEASE, and thank you."))
    assert not await holds_words(["please", "thank you"])(request("Please."))
    judged = scores_at_least(ScriptedEvaluator([60, 59]), 60)
    assert [await judged(request("a")), await judged(request("b"))] == [True, False]


def test_a_check_that_can_tell_nothing_is_refused():
    with pytest.raises(ConfigError, match="no regular expression"):
        matches("(")
    for evaluator in (FixedScore(50), ContrastiveEvaluator()):
        with pytest.raises(ConfigError, match="give a judge or a pattern"):
            scores_at_least(evaluator, 60)


async def test_shares_count_what_is_kept_followed_both_and_degenerate():
    cases = [TuneCase(messages=({"role": "user", "content": text},), keep=("43",)) for text in ("a", "b", "c", "d")]
    answers = ["It is 43, please.", "Please wait.", "It is 43.", " "]
    told: list[int] = []
    with ScriptedEngine(answers) as engine:
        tuner = Tuner(engine, cases, POLITE, holds_words(["please"]), Sampling(), on_answer=lambda: told.append(1))
        tried = await tuner.one("plain", None)
    values = [tried.kept.value, tried.follows.value, tried.both.value, tried.degenerate.value]
    assert values == [0.5, 0.5, 0.25, 0.25]
    assert len(told) == 4
    assert tried.seconds > 0


async def test_the_settings_shipped_all_run(engine):
    cases = [TuneCase(messages=({"role": "user", "content": "what is in the library?"},))]
    tuner = Tuner(engine, cases, POLITE, holds_words(["please"]), Sampling(temperature=0, max_new_tokens=3))
    tried = await tuner.all()
    assert [arm.name for arm in tried][:2] == [PLAIN, PROMPT]
    assert all(arm.kept.value == 1 for arm in tried), "there is nothing to lose"
    assert {arm.steering.policy for arm in tried[1:]} == {"paper", "budget", "revise"}


def test_what_follows_most_and_loses_little_is_recommended():
    prompt = arm(PROMPT, 0.80, 0.10)
    strong, safe, equal = arm("strong", 0.50, 0.45), arm("safe", 0.78, 0.40), arm("slower", 0.90, 0.40, seconds=2.0)
    assert recommend([prompt, strong, equal, safe]) is safe
    assert recommend([prompt, arm("worse", 0.9, 0.1)]) is None
    assert recommend([prompt, arm("loses", 0.7, 0.9)]) is None


def test_a_share_is_a_mean_with_an_interval_over_its_groups():
    whole = share([1, 1, 0, 0], ["a", "a", "b", "b"])
    assert (whole.value, whole.low, whole.high) == (0.5, 0.0, 1.0)
    assert share([1, 0], ["a", "a"]) == Estimate(0.5, None, None)
