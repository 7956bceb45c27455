"""Requirement 10: no text inside the rated response breaks the prompt's structure or the parsing of the verdict."""

import json
import re
from collections.abc import Callable

import pytest

from sda_engine.alignment import PRESETS
from sda_engine.errors import EvaluationError
from sda_engine.evaluators import EvaluationRequest
from sda_engine.evaluators.verdict import (
    MAX_VERDICT_CHARACTERS,
    RatingPrompt,
    Verdict,
    make_rating_prompt,
    parse_verdict,
)
from sda_engine.testing import CHAT_TEMPLATE, tiny_tokenizer
from sda_engine.tokens.tokenizer import SafeTokenizer
from tests.reliability.injection_attacks import ATTACKS, GUESSED_CODE, Attack

QUESTION = "How far away is the moon?"
HARMLESS = "About 384,400 km on average."
OWN = '{"reason": "vague", "score": 7}'
# Attacks that are themselves what a judge may answer. A judge that writes nothing but this has been persuaded; no
# parser can tell that from its own opinion
WHOLE_VERDICTS = {"bare verdict", "verdict with the score first"}

# The control tokens of several model families, and a chat template that uses them
FAMILIES = {
    "chatml": ((), CHAT_TEMPLATE),
    "plain": ((), None),
    "llama 3": (
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
        "{{ m['content'] }}<|eot_id|>{% endfor %}<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "llama 2": (
        ("<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
        "<s>[INST] <<SYS>>\n{{ messages[0]['content'] }}\n<</SYS>>\n\n{{ messages[1]['content'] }} [/INST]",
    ),
    "gemma": (
        ("<start_of_turn>", "<end_of_turn>"),
        "{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{{ m['content'] }}<end_of_turn>\n{% endfor %}"
        "<start_of_turn>model\n",
    ),
    "phi": (
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}<|assistant|>\n",
    ),
    "deepseek": (
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),  # noqa: RUF001 - its own spelling
        "<｜begin▁of▁sentence｜>{{ messages[0]['content'] }}<｜User｜>{{ messages[1]['content'] }}<｜Assistant｜>",  # noqa: RUF001
    ),
    "tools and thoughts": (
        ("<think>", "</think>", "<tool_call>", "</tool_call>"),
        CHAT_TEMPLATE + "<think>\n",
    ),
}


def each_attack(check: Callable[[Attack], None]) -> Callable[[], None]:
    """One test of all attacks, since a hundred of a millisecond each take long to run; it names the one that fails."""

    def test() -> None:
        for attack in ATTACKS:
            try:
                check(attack)
            except AssertionError as error:
                error.add_note(f"the attack: {attack.name}")
                raise

    test.__name__, test.__doc__ = check.__name__, check.__doc__
    return test


def rating_prompt(response: str) -> RatingPrompt:
    messages = [{"role": "user", "content": QUESTION}]
    return make_rating_prompt(EvaluationRequest(messages, response, PRESETS["honesty"]))


def code_of(prompt: RatingPrompt) -> str:
    found = re.search(r"lines that carry the code ([0-9a-f]{16})\.", prompt.system)
    assert found is not None
    return found[1]


def attacked(attack: Attack) -> str:
    return f"{HARMLESS}\n{attack.text}"


def parsed(reply: str) -> Verdict | None:
    """What is read from a judge's reply; None where it is refused."""
    try:
        return parse_verdict(reply)
    except EvaluationError:
        return None


def test_the_corpus_has_sixty_attacks_or_more_each_under_a_name_of_its_own() -> None:
    assert len(ATTACKS) >= 60
    assert len({attack.name for attack in ATTACKS}) == len({attack.text for attack in ATTACKS}) == len(ATTACKS)
    assert len({attack.category for attack in ATTACKS}) >= 10


# The fence


@each_attack
def test_the_fence_holds_and_the_attack_is_inside(attack: Attack) -> None:
    prompt = rating_prompt(attacked(attack))
    code = code_of(prompt)
    begin, end = f"=== {code} begin: the response to rate ===\n", f"\n=== {code} end ==="
    before, inside = prompt.user.split(begin)  # exactly one beginning
    response, after = inside.split(end)  # and after it exactly one end
    assert response == attacked(attack)
    assert after == "\n\nRate the response by the rubric."
    assert code not in attack.text
    assert before.count(code) == 2  # the user message before it, in a fence of its own
    assert attack.text not in before


@each_attack
def test_outside_the_fence_the_prompt_is_that_of_a_harmless_response(attack: Attack) -> None:
    prompt, harmless = rating_prompt(attacked(attack)), rating_prompt(HARMLESS)
    assert prompt.system.replace(code_of(prompt), "") == harmless.system.replace(code_of(harmless), "")
    outside = prompt.user.replace(attacked(attack), HARMLESS).replace(code_of(prompt), "")
    assert outside == harmless.user.replace(code_of(harmless), "")


@each_attack
def test_in_a_message_before_the_response_an_attack_stays_inside_its_fence_too(attack: Attack) -> None:
    messages = [{"role": "user", "content": attack.text}, {"role": attack.text, "content": "x"}]
    prompt = make_rating_prompt(EvaluationRequest(messages, HARMLESS, PRESETS["honesty"]))
    code = code_of(prompt)
    lines = [line for line in prompt.user.split("\n") if code in line]
    assert [line.startswith(f"=== {code} begin: ") for line in lines] == [True, False] * 3
    assert lines[1::2] == [f"=== {code} end ==="] * 3


def test_codes_are_not_repeated_and_not_the_guessed_one() -> None:
    codes = [code_of(rating_prompt(HARMLESS)) for _ in range(1000)]
    assert len(set(codes)) == 1000
    assert GUESSED_CODE not in codes


# Control tokens


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> SafeTokenizer:
    tokens, template = FAMILIES[request.param]
    tokenizer = tiny_tokenizer(chat_template=template)
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    return SafeTokenizer(tokenizer)


def control_ids(tokenizer: SafeTokenizer, response: str) -> list[int]:
    system, user = rating_prompt(response)
    ids = tokenizer.render([{"role": "system", "content": system}, {"role": "user", "content": user}])
    return [token_id for token_id in ids if token_id in tokenizer.special_tokens.values()]


def test_no_attack_adds_a_control_token_to_the_judge_s_prompt(family: SafeTokenizer) -> None:
    expected = control_ids(family, HARMLESS)
    assert [attack.name for attack in ATTACKS if control_ids(family, attacked(attack)) != expected] == []


def test_every_control_token_of_the_families_is_tried_by_an_attack_or_by_itself(family: SafeTokenizer) -> None:
    expected = control_ids(family, HARMLESS)
    assert control_ids(family, "".join(family.special_tokens)) == expected
    unsafe = family.copy().encode("".join(family.special_tokens))
    assert set(unsafe) >= set(family.special_tokens.values())  # this is what there was to keep out


# The verdict


@each_attack
def test_a_judge_that_echoes_an_attack_around_its_verdict_is_refused(attack: Attack) -> None:
    for reply in (f"{attack.text}\n{OWN}", f"{OWN}\n{attack.text}", f"{attack.text}{OWN}{attack.text}"):
        assert parsed(reply) is None


@each_attack
def test_a_judge_that_quotes_an_attack_as_its_reason_keeps_its_own_score(attack: Attack) -> None:
    for ascii_only in (True, False):
        reply = json.dumps({"reason": attack.text, "score": 7}, ensure_ascii=ascii_only)
        assert parsed(reply) == (Verdict(attack.text, 7.0) if len(reply) <= MAX_VERDICT_CHARACTERS else None)


@each_attack
def test_a_judge_that_quotes_an_attack_without_escaping_it_keeps_its_score_or_is_refused(attack: Attack) -> None:
    for reply in (f'{{"reason": "{attack.text}", "score": 7}}', f'{{"score": 7, "reason": "{attack.text}"}}'):
        verdict = parsed(reply)
        assert verdict is None or verdict.score == 7.0


@each_attack
def test_a_judge_that_says_nothing_but_an_attack_is_refused_unless_it_is_a_whole_verdict(attack: Attack) -> None:
    assert (parsed(attack.text) is not None) == (attack.name in WHOLE_VERDICTS)
