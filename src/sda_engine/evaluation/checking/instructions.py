"""Instructions that a rule can verify: the kinds of IFEval, strict, without a download.

Source: Zhou et al. 2023, "Instruction-Following Evaluation for Large Language Models"
(https://arxiv.org/abs/2311.07911). The rules are those that its authors published, in code of our own: the package
lm-eval has theirs, but importing it takes `datasets`, pyarrow and twenty packages more, asks the network for data of
nltk, prints, and draws arguments at random where a row leaves them out.

Deviations from the published rules: keywords are texts, not regular expressions; a text whose language cannot be told
follows no instruction about languages (there it follows all); a letter that is none of a..z is counted as it is (there
another one is drawn).
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import Field, ValidationError, validate_call

from sda_engine.errors import ConfigError
from sda_engine.evaluation.checking.languages import language_of
from sda_engine.evaluation.checking.texts import word_count
from sda_engine.settings import shown

Count = Annotated[int, Field(ge=0)]
Place = Annotated[int, Field(ge=1)]  # the first is 1
Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[list[Text], Field(min_length=1)]
Relation = Literal["less than", "at least"]
Letter = Annotated[str, Field(min_length=1, max_length=1)]

LEFT_OUT: Mapping[str, str] = MappingProxyType(
    {
        "length_constraints:number_sentences": "sentences are counted by nltk's punkt, whose data are a download",
        "change_case:capital_word_frequency": "words are split by nltk's punkt, whose data are a download",
    }
)
"""Kinds of IFEval that are not checked, and why."""

_OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_FENCE = re.compile(r"\A```(?:json)?|```\Z", re.IGNORECASE)


def follows(response: str, kind: str, arguments: Mapping[str, object]) -> bool:
    """Whether a response follows an instruction to the letter; an empty one follows none.

    Args:
        response: the whole answer.
        kind: one of CHECKED_KINDS, such as "keywords:existence".
        arguments: what IFEval's field `kwargs` says of the instruction; those that are None count as left out.

    Raises:
        ConfigError: the kind is unknown or one of LEFT_OUT, or the arguments are not those of the kind.
        ImportError: langdetect is not installed, which instructions about languages need.
    """
    check = _validated(kind)
    given = {name: value for name, value in arguments.items() if value is not None}
    try:
        followed = check(response, **given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"The arguments of {kind!r} cannot be {shown(given)}: {place}: {first['msg']}. Give those of IFEval's rows."
        ) from error
    return bool(response.strip()) and followed


@lru_cache(maxsize=64)
def _validated(kind: str) -> Callable[..., bool]:
    """The rule of a kind; it raises ValidationError for arguments that it does not take."""
    if kind in LEFT_OUT:
        raise ConfigError(f"Instructions of the kind {kind!r} are not checked: {LEFT_OUT[kind]}. Leave such rows out.")
    if kind not in _RULES:
        raise ConfigError(f"The kind of an instruction cannot be {kind!r}: it must be one of {', '.join(_RULES)}.")
    return validate_call(_RULES[kind])


def _compared(count: int, relation: Relation, wanted: int) -> bool:
    return count < wanted if relation == "less than" else count >= wanted


def _divided(text: str, divider: str) -> list[str] | None:
    """The parts of a text, stripped, without empty ones at its ends; None where one in the middle is empty."""
    parts = [part.strip() for part in text.split(divider)]
    return [part for part in parts if part] if all(parts[1:-1]) else None


def _count_in_any_case(text: str, part: str) -> int:
    return len(re.findall(re.escape(part), text, re.IGNORECASE))


def _has_keywords(response: str, *, keywords: Texts) -> bool:
    return all(_count_in_any_case(response, keyword) for keyword in keywords)  # parts of longer words count, too


def _has_keyword_so_often(response: str, *, keyword: Text, frequency: Count, relation: Relation) -> bool:
    return _compared(_count_in_any_case(response, keyword.strip()), relation, frequency)


def _lacks_words(response: str, *, forbidden_words: Texts) -> bool:
    return not any(re.search(rf"\b{re.escape(word)}\b", response, re.IGNORECASE) for word in forbidden_words)


def _has_letter_so_often(response: str, *, letter: Letter, let_frequency: Count, let_relation: Relation) -> bool:
    return _compared(response.lower().count(letter.lower()), let_relation, let_frequency)


def _is_in_language(response: str, *, language: Text) -> bool:
    return language_of(response) == language


def _has_paragraphs(response: str, *, num_paragraphs: Count) -> bool:
    parts = _divided(response, "***")
    return parts is not None and len(parts) == num_paragraphs


def _has_words(response: str, *, num_words: Count, relation: Relation) -> bool:
    return _compared(word_count(response), relation, num_words)


def _begins_paragraph(response: str, *, num_paragraphs: Count, nth_paragraph: Place, first_word: Text) -> bool:
    """Divided by an empty line; empty paragraphs do not count, but take a place."""
    paragraphs = [paragraph.strip() for paragraph in response.split("\n\n")]
    if sum(map(bool, paragraphs)) != num_paragraphs or nth_paragraph > num_paragraphs:
        return False
    beginning = paragraphs[nth_paragraph - 1].split()[:1]
    word = beginning[0].lstrip("'").lstrip('"') if beginning else ""
    return re.split(r"[.,?!'\"]", word)[0].lower() == first_word.lower()


def _has_placeholders(response: str, *, num_placeholders: Count) -> bool:
    return len(re.findall(r"\[.*?\]", response)) >= num_placeholders


def _has_postscript(response: str, *, postscript_marker: Text) -> bool:
    marker = postscript_marker.strip().lower()
    spaced = {"p.s.": r"p\.\s?s\.", "p.p.s": r"p\.\s?p\.\s?s"}
    return re.search(spaced.get(marker, re.escape(marker)), response.lower()) is not None


def _has_bullets(response: str, *, num_bullets: Count) -> bool:
    lines = [line.lstrip() for line in response.split("\n")]
    bullets = [line for line in lines if line.startswith("-") or re.match(r"\*[^*]", line)]
    return len(bullets) == num_bullets


def _is_an_option(response: str) -> bool:
    return any(option in response for option in _OPTIONS)


def _has_highlights(response: str, *, num_highlights: Count) -> bool:
    marked = re.findall(r"\*([^*\n]*)\*", response) + re.findall(r"\*\*([^*\n]*)\*\*", response)
    return sum(bool(text.strip()) for text in marked) >= num_highlights


def _has_sections(response: str, *, section_spliter: Text, num_sections: Count) -> bool:
    return len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d+", response)) >= num_sections


def _is_json(response: str) -> bool:
    try:
        json.loads(_FENCE.sub("", response.strip()))
    except (ValueError, RecursionError):
        return False
    return True


def _has_title(response: str) -> bool:
    return any(title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", response))


def _is_two_responses(response: str) -> bool:
    parts = _divided(response, "******")
    return parts is not None and len(parts) == 2 and parts[0] != parts[1]


def _repeats_prompt(response: str, *, prompt_to_repeat: Text) -> bool:
    return response.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _ends_with(response: str, *, end_phrase: Text) -> bool:
    return response.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _is_in_capitals(response: str) -> bool:
    return response.isupper() and language_of(response) == "en"


def _is_in_small_letters(response: str) -> bool:
    return response.islower() and language_of(response) == "en"


def _lacks_commas(response: str) -> bool:
    return "," not in response


def _is_quoted(response: str) -> bool:
    text = response.strip()
    return len(text) > 1 and text.startswith('"') and text.endswith('"')


_RULES: Mapping[str, Callable[..., bool]] = {
    "keywords:existence": _has_keywords,
    "keywords:frequency": _has_keyword_so_often,
    "keywords:forbidden_words": _lacks_words,
    "keywords:letter_frequency": _has_letter_so_often,
    "language:response_language": _is_in_language,
    "length_constraints:number_paragraphs": _has_paragraphs,
    "length_constraints:number_words": _has_words,
    "length_constraints:nth_paragraph_first_word": _begins_paragraph,
    "detectable_content:number_placeholders": _has_placeholders,
    "detectable_content:postscript": _has_postscript,
    "detectable_format:number_bullet_lists": _has_bullets,
    "detectable_format:constrained_response": _is_an_option,
    "detectable_format:number_highlighted_sections": _has_highlights,
    "detectable_format:multiple_sections": _has_sections,
    "detectable_format:json_format": _is_json,
    "detectable_format:title": _has_title,
    "combination:two_responses": _is_two_responses,
    "combination:repeat_prompt": _repeats_prompt,
    "startend:end_checker": _ends_with,
    "startend:quotation": _is_quoted,
    "change_case:english_capital": _is_in_capitals,
    "change_case:english_lowercase": _is_in_small_letters,
    "punctuation:no_comma": _lacks_commas,
}
CHECKED_KINDS: tuple[str, ...] = tuple(_RULES)
"""Kinds of IFEval that `follows` knows."""
