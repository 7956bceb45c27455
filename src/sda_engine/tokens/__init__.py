"""A tokenizer for many threads that user text cannot trick, and what is known of a model's tokens and markers."""

from sda_engine.tokens.answer_format import CALL_BEGIN, CALL_END, THOUGHT_END, AnswerFormat
from sda_engine.tokens.categories import TokenCategories
from sda_engine.tokens.making import make_tokenizer
from sda_engine.tokens.picture_tokens import (
    PictureSpan,
    PreparedPicture,
    is_of_picture,
    picture_spans,
    text_of_prompt,
)
from sda_engine.tokens.tokenizer import PLAIN_TEMPLATE_STOP, SafeTokenizer

__all__ = [
    "CALL_BEGIN",
    "CALL_END",
    "PLAIN_TEMPLATE_STOP",
    "THOUGHT_END",
    "AnswerFormat",
    "PictureSpan",
    "PreparedPicture",
    "SafeTokenizer",
    "TokenCategories",
    "is_of_picture",
    "make_tokenizer",
    "picture_spans",
    "text_of_prompt",
]
