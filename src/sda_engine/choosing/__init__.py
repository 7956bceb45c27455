"""Which of several answers to give: what the first took from its sources must stay, then the best score wins."""

from sda_engine.choosing.chooser import Attempt, choose
from sda_engine.choosing.recital import recites
from sda_engine.choosing.revision import KEEP_RULES, REVISIONS, KeepCheck, KeepRule, Revision, Sight, lost_values
from sda_engine.choosing.values import missing_values, values_of

__all__ = [
    "KEEP_RULES",
    "REVISIONS",
    "Attempt",
    "KeepCheck",
    "KeepRule",
    "Revision",
    "Sight",
    "choose",
    "lost_values",
    "missing_values",
    "recites",
    "values_of",
]
