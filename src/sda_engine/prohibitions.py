"""Whether an instruction forbids something: a rule of thumb for English.

A prohibition is an imperative, so it stands where a clause begins ("Be kind, and never swear"), or after a subject that
means the model or its answer ("You must not ..."). Inside a description the same words forbid nothing ("a teacher who
has never seen a computer", "readers who do not speak English", "how to avoid debt").
"""

import re

_NOT = r"(?:not|never)\b|n['\N{RIGHT SINGLE QUOTATION MARK}]t\b"
_LEAD = r"[\s\"'*>\-\d)]*(?:(?:please|also|just|simply|always|instead|however|therefore)\b\s*)*"
_SUBJECT = r"(?:you|it|they|(?:the|your|all|any|this|each|every)\s+(?:\w+\s+)?\w+|answers?|responses?|replies|text)"
_MODAL = r"(?:must|should|shall|may|can|could|will|would)"

_COMMAND = re.compile(
    rf"{_LEAD}(?:you\s+)?(?P<found>do\s?(?:{_NOT})|never\s+(?:ever\s+)?(?P<verb>\w+)|(?P<shun>avoid|refrain\s+from)\b"
    r"|(?:under\s+no\s+circumstances|on\s+no\s+account|at\s+no\s+time)\b)",
    re.IGNORECASE,
)
_DUTY = re.compile(
    rf"{_LEAD}{_SUBJECT}\s+(?P<found>{_MODAL}\s?(?:{_NOT})|can(?:not|['\N{{RIGHT SINGLE QUOTATION MARK}}]t)\b"
    r"|(?:is|are)\s+(?:not\s+(?:allowed|permitted)|forbidden)\b)",
    re.IGNORECASE,
)
# After "never" these give no command: "never seen", "never shouts", "never mind"; but "need" and "discuss" do
_NO_COMMAND = re.compile(r"\w*(?<!e)ed|\w*[^su\W]s|been|seen|heard|had|known|done|gone|met|mind|before", re.IGNORECASE)
_DESCRIBES = re.compile(r"\b(?:who|that|which|whose|whom|as if|as though)\b", re.IGNORECASE)
_EXPLAINS = re.compile(r"\b(?:how to|ways? to|helps?|learn to|wants? to|in order to)\b", re.IGNORECASE)

_SENTENCE_END = re.compile(r"[.!?;:\n(\N{EM DASH}\N{BULLET}]|\s[-\N{EN DASH}]\s")
_REACH = 200  # characters that are looked back at
_JOINT = re.compile(r",|\b(?:and|but|or|then|yet|so)\b", re.IGNORECASE)


def find_prohibition(instruction: str) -> str | None:
    """The words by which an instruction forbids something; None where it does not."""
    for sentence in _SENTENCE_END.split(instruction):
        for start in (0, *(joint.end() for joint in _JOINT.finditer(sentence))):
            if (found := _forbids(sentence, start)) is not None:
                return found
    return None


def _forbids(sentence: str, start: int) -> str | None:
    """The words by which a clause of a sentence forbids something.

    What stands before it counts, back to a comma: "people who care and never judge" are not told to do so.
    """
    match = _DUTY.match(sentence, start) or _COMMAND.match(sentence, start)
    if match is None:
        return None
    before = sentence[max(0, start - _REACH) : start].rpartition(",")[2]
    if _DESCRIBES.search(match[0]) or _DESCRIBES.search(before):
        return None
    groups = match.groupdict()
    if groups.get("verb") and _NO_COMMAND.fullmatch(groups["verb"]):
        return None
    if groups.get("shun") and _EXPLAINS.search(before):
        return None
    return match["found"]
