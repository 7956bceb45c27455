"""A tokenizer for many threads that user text cannot trick, and what is known of a model's tokens and markers."""

from sda_engine.tokens.answer_format import CALL_BEGIN, CALL_END, THOUGHT_END, AnswerFormat
from sda_engine.tokens.categories import TokenCategories
from sda_engine.tokens.tokenizer import PLAIN_TEMPLATE_STOP, SafeTokenizer

__all__ = [
    "CALL_BEGIN",
    "CALL_END",
    "PLAIN_TEMPLATE_STOP",
    "THOUGHT_END",
    "AnswerFormat",
    "SafeTokenizer",
    "TokenCategories",
]
