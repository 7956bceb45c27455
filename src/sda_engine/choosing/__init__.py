"""Which of several answers to give: what the first took from its sources must stay, then the best score wins."""

from sda_engine.choosing.chooser import Attempt, choose
from sda_engine.choosing.keeping import KEPT, KeepCheck, KeepRule, values_to_keep
from sda_engine.choosing.recital import recites
from sda_engine.choosing.revision import FREE_REVISIONS, REVISIONS, Revision, Sight
from sda_engine.choosing.values import missing_values, values_of

__all__ = [
    "FREE_REVISIONS",
    "KEPT",
    "REVISIONS",
    "Attempt",
    "KeepCheck",
    "KeepRule",
    "Revision",
    "Sight",
    "choose",
    "missing_values",
    "recites",
    "values_of",
    "values_to_keep",
]
