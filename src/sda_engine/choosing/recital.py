"""Whether an answer speaks of its instruction in place of following it: "Including the word welcome in your answer"."""

from sda_engine.choosing.words import FUNCTION_WORDS, SENTENCE, STEM, stems_of, words_of

_MOST = 0.6  # share of an instruction's words from which a sentence that holds its first is about the instruction
_FEW = 3  # words of an instruction that are too few for a share: all have to be there


def recites(answer: str, instruction: str, base_response: str = "") -> bool:
    """Whether a sentence of an answer holds what an instruction begins with, mostly a verb, and most of its words.

    So "refunds take 14 days" is no recital of "Say that refunds take 14 days". Words of content count, told by their
    stems; those that the base response holds too tell nothing.

    Args:
        answer: what may recite.
        instruction: what may be recited.
        base_response: what the model says without the instruction.
    """
    content = [word for word in words_of(instruction) if word not in FUNCTION_WORDS]
    wanted = stems_of(instruction) - stems_of(base_response)
    if len(wanted) < 2 or content[0][:STEM] not in wanted:
        return False
    enough = max(min(_FEW, len(wanted)), _MOST * len(wanted))
    sentences = (stems_of(sentence) & wanted for sentence in SENTENCE.findall(answer))
    return any(content[0][:STEM] in said and len(said) >= enough for said in sentences)
