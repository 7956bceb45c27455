"""Instructions whose following a rule can check, for `kept_answers.py`."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

from py3langid.langid import MODEL_FILE, LanguageIdentifier
from rag_facts import REPORTING, TUNING

from sda_engine import Alignment

ONCE, ALONG, END, FORM, AVOID = "once", "all along", "at the end", "form", "avoid"


@dataclass(frozen=True)
class CheckedInstruction:
    """An alignment, and the rule that tells whether an answer follows it.

    Attributes:
        name: a few words for tables.
        kind: "once", "all along", "at the end", "form" or "avoid".
        half: "tuning" or "reporting".
        alignment: what steers. Nobody who chooses or steers sees the rule.
        follows: the rule: the answer's text to whether it follows.
        asked: the instruction as one would write it into a prompt; None where it is the alignment's own.
    """

    name: str
    kind: str
    half: str
    alignment: Alignment
    follows: Callable[[str], bool]
    asked: str | None = None


def _has_word(text: str, word: str) -> bool:
    return re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) is not None


def _begins(text: str, words: str) -> bool:
    return text.strip().strip("\"'*").lower().startswith(words.lower())


def _ends(text: str, words: str) -> bool:
    return text.strip().strip("\"'*.!").lower().endswith(words.lower().rstrip(".!"))


def _in_capitals(text: str) -> bool:
    return any(letter.isalpha() for letter in text) and text == text.upper()


def _in_small_letters(text: str) -> bool:
    return any(letter.isalpha() for letter in text) and text == text.lower()


def _in_language(text: str, language: str) -> bool:
    return bool(_identifier().classify(text)[0] == language)


@cache
def _identifier() -> LanguageIdentifier:
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    identifier.set_languages(["de", "en", "es", "fr"])  # a sentence is little to tell a hundred languages by
    return identifier


def _in_quotation_marks(text: str) -> bool:
    stripped = text.strip()
    return len(stripped) > 2 and stripped[0] in '"“' and stripped[-1] in '"”'


def _in_exclamations(text: str) -> bool:
    sentences = re.findall(r"[.!?](?=\s|$)", text.strip())
    return bool(sentences) and all(mark == "!" for mark in sentences)


def _without_commas(text: str) -> bool:
    return bool(text.strip()) and "," not in text


def _is_list(text: str, mark: str) -> bool:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return bool(lines) and all(re.match(mark, line) for line in lines)


def _at_most(text: str, words: int) -> bool:
    return 0 < len(text.split()) <= words


def _is_json(text: str, key: str) -> bool:
    found = re.search(r"\{.*\}", text, re.DOTALL)
    try:
        return found is not None and key in json.loads(found.group())
    except (json.JSONDecodeError, TypeError):
        return False


def _has_title(text: str) -> bool:
    return re.search(r"<<[^\n<>]+>>", text) is not None


def _without(text: str, word: str) -> bool:
    return bool(text.strip()) and not _has_word(text, word)


def _begins_otherwise(text: str, word: str) -> bool:
    return bool(text.strip()) and not re.match(rf"\W*{word}\b", text, re.IGNORECASE)


def _of(
    half: str, kind: str, name: str, instruction: str, follows: Callable[[str], bool], avoid: str | None = None
) -> CheckedInstruction:
    if avoid is None:
        return CheckedInstruction(name, kind, half, Alignment(instruction=instruction, name=name), follows)
    return CheckedInstruction(name, kind, half, Alignment(avoid=avoid, name=name), follows, asked=instruction)


INSTRUCTIONS = (
    _of(
        TUNING,
        ONCE,
        "include 'welcome'",
        "Include the word welcome in your answer.",
        partial(_has_word, word="welcome"),
    ),
    _of(
        TUNING,
        ONCE,
        "begin 'Good news:'",
        "Begin your answer with the words Good news.",
        partial(_begins, words="good news"),
    ),
    _of(TUNING, ONCE, "include 'music'", "Include the word music in your answer.", partial(_has_word, word="music")),
    _of(TUNING, ONCE, "include 'please'", "Use the word please in your answer.", partial(_has_word, word="please")),
    _of(
        TUNING,
        ONCE,
        "begin 'Thank you'",
        "Begin your answer with the words Thank you.",
        partial(_begins, words="thank you"),
    ),
    _of(TUNING, ALONG, "German", "Answer in German.", partial(_in_language, language="de")),
    _of(TUNING, ALONG, "exclamations", "End every sentence with an exclamation mark.", _in_exclamations),
    _of(TUNING, ALONG, "capitals", "Write your answer in capital letters.", _in_capitals),
    _of(TUNING, ALONG, "Spanish", "Answer in Spanish.", partial(_in_language, language="es")),
    _of(TUNING, ALONG, "quotation marks", "Put your whole answer in double quotation marks.", _in_quotation_marks),
    _of(
        TUNING,
        END,
        "end 'Have a nice day'",
        "End your answer with the words Have a nice day.",
        partial(_ends, words="have a nice day"),
    ),
    _of(
        TUNING,
        END,
        "end 'See you soon'",
        "End your answer with the words See you soon.",
        partial(_ends, words="see you soon"),
    ),
    _of(
        TUNING,
        FORM,
        "bullets",
        "Answer as a list of bullet points that begin with a dash.",
        partial(_is_list, mark="[-*•] "),
    ),
    _of(TUNING, FORM, "at most 8 words", "Answer in at most eight words.", partial(_at_most, words=8)),
    _of(
        TUNING,
        AVOID,
        "not 'The' first",
        "Do not begin your answer with the word The.",
        partial(_begins_otherwise, word="the"),
        "Begin your answer with the word The.",
    ),
    _of(
        REPORTING,
        ONCE,
        "include 'garden'",
        "Include the word garden in your answer.",
        partial(_has_word, word="garden"),
    ),
    _of(
        REPORTING,
        ONCE,
        "begin 'Dear guest'",
        "Begin your answer with the words Dear guest.",
        partial(_begins, words="dear guest"),
    ),
    _of(REPORTING, ONCE, "include 'river'", "Include the word river in your answer.", partial(_has_word, word="river")),
    _of(
        REPORTING,
        ONCE,
        "begin 'Of course'",
        "Begin your answer with the words Of course.",
        partial(_begins, words="of course"),
    ),
    _of(REPORTING, ALONG, "small letters", "Write your answer in small letters only.", _in_small_letters),
    _of(REPORTING, ALONG, "French", "Answer in French.", partial(_in_language, language="fr")),
    _of(REPORTING, ALONG, "no commas", "Write sentences without commas.", _without_commas),
    _of(
        REPORTING,
        END,
        "end 'Ask me more'",
        "End your answer with the words Ask me more.",
        partial(_ends, words="ask me more"),
    ),
    _of(
        REPORTING,
        END,
        "end 'Kind regards'",
        "End your answer with the words Kind regards.",
        partial(_ends, words="kind regards"),
    ),
    _of(REPORTING, FORM, "numbered list", "Answer as a numbered list.", partial(_is_list, mark=r"\d+[.)]\s")),
    _of(REPORTING, FORM, "JSON", 'Answer as a JSON object with the key "answer".', partial(_is_json, key="answer")),
    _of(REPORTING, FORM, "title", "Begin with a title in double angular brackets, such as <<title>>.", _has_title),
    _of(REPORTING, AVOID, "without 'is'", "Do not use the word is.", partial(_without, word="is"), "Use the word is."),
)
