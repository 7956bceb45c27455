"""Measures of answers that need no judge: rules, references, schemas, and made-up requests with known answers.

Every function is pure and gives the same for the same arguments.
"""

from sda_engine.evaluation.checking.bookings import BOOK_TABLE, Booking, table_bookings
from sda_engine.evaluation.checking.calls import argument_accuracy, call_arguments, json_values, valid_call, valid_json
from sda_engine.evaluation.checking.facts import REPORTING, TUNING, FactQuestion, Half, fact_questions, holds
from sda_engine.evaluation.checking.instructions import CHECKED_KINDS, LEFT_OUT, follows
from sda_engine.evaluation.checking.languages import language_of
from sda_engine.evaluation.checking.profiles import PROFILE_SCHEMA, Profile, profiles
from sda_engine.evaluation.checking.references import Embeddings, rouge_l
from sda_engine.evaluation.checking.refusals import is_refusal
from sda_engine.evaluation.checking.safe_requests import SAFE_REQUESTS, UNSAFE_REQUESTS, SafetyRequest
from sda_engine.evaluation.checking.texts import collapsed, distinct, repetition, word_count

__all__ = [
    "BOOK_TABLE",
    "CHECKED_KINDS",
    "LEFT_OUT",
    "PROFILE_SCHEMA",
    "REPORTING",
    "SAFE_REQUESTS",
    "TUNING",
    "UNSAFE_REQUESTS",
    "Booking",
    "Embeddings",
    "FactQuestion",
    "Half",
    "Profile",
    "SafetyRequest",
    "argument_accuracy",
    "call_arguments",
    "collapsed",
    "distinct",
    "fact_questions",
    "follows",
    "holds",
    "is_refusal",
    "json_values",
    "language_of",
    "profiles",
    "repetition",
    "rouge_l",
    "table_bookings",
    "valid_call",
    "valid_json",
    "word_count",
]
