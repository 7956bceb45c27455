"""Words of a text, for rules of thumb in languages that put spaces between words."""

import re

SENTENCE = re.compile(r".+?(?:[.!?](?=\s|$)|\n|$)\s*", re.DOTALL)
WORD = re.compile(r"\w+(?:[.,:/'\u2019@-]\w+)*%?")
STEM = 4  # letters by which words of one stem are told, as open and opens
FUNCTION_WORDS = frozenset(
    """
    a an and are as at be been but by can could did do does for from had has have he her his i if in into is it its may
    me might must my no not of on or our shall she should so such than that the their them then there these they this to
    was we were what when where which who will with would you your
    """.split()  # noqa: SIM905
)


def words_of(text: str) -> list[str]:
    """The words of a text in small letters, numbers and times included."""
    return [word.lower() for word in WORD.findall(text)]


def stems_of(text: str) -> set[str]:
    """The stems of a text's words of content."""
    return {word[:STEM] for word in words_of(text) if word not in FUNCTION_WORDS}
