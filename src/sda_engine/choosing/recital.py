"""Whether an answer speaks of its instruction in place of following it: "Including the word welcome in your answer"."""

from sda_engine.choosing.words import FUNCTION_WORDS, STEM, stems_of, words_of

_MOST = 0.6  # share of an instruction's words from which an answer that holds its first is about the instruction


def recites(answer: str, instruction: str, base_response: str = "") -> bool:
    """Whether an answer holds what an instruction begins with, mostly a verb, and most of its other words of content.

    So "refunds take 14 days" is no recital of "Say that refunds take 14 days". Words are told by their stems, and those
    that the base response holds too tell nothing.

    Args:
        answer: what may recite.
        instruction: what may be recited.
        base_response: what the model says without the instruction.
    """
    content = [word for word in words_of(instruction) if word not in FUNCTION_WORDS]
    known = stems_of(base_response)
    wanted = stems_of(instruction) - known
    if not content or len(wanted) < 2 or content[0][:STEM] not in wanted:
        return False
    said = stems_of(answer)
    return content[0][:STEM] in said and len(wanted & said) >= _MOST * len(wanted)
