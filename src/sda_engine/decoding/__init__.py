"""Decoding: row groups over one model, one token at a time, in a worker thread of the engine's own."""

from sda_engine.decoding.decode_task import DecodeTask
from sda_engine.decoding.guards import find_repetition
from sda_engine.decoding.memory import cache_bytes, default_cache_tokens
from sda_engine.decoding.model_runner import ModelRunner
from sda_engine.decoding.prompt_state import PromptState
from sda_engine.decoding.proposals import Proposer
from sda_engine.decoding.regions import closes_thoughts
from sda_engine.decoding.revise_task import ReviseTask
from sda_engine.decoding.row_group import DecodedText, DecodeSettings
from sda_engine.decoding.runners import foreseen_runner, make_runner, storing_layers
from sda_engine.decoding.runs_tasks import RunsTasks
from sda_engine.decoding.scheduler import Scheduler
from sda_engine.decoding.score_task import ScoreTask
from sda_engine.decoding.stats import EngineStats
from sda_engine.decoding.steered_score_task import STEERED, SteeredScoreTask, TextSteering
from sda_engine.decoding.tasks import Event, Task, Token
from sda_engine.decoding.text_scoring import TextScoring

__all__ = [
    "STEERED",
    "DecodeSettings",
    "DecodeTask",
    "DecodedText",
    "EngineStats",
    "Event",
    "ModelRunner",
    "PromptState",
    "Proposer",
    "ReviseTask",
    "RunsTasks",
    "Scheduler",
    "ScoreTask",
    "SteeredScoreTask",
    "Task",
    "TextScoring",
    "TextSteering",
    "Token",
    "cache_bytes",
    "closes_thoughts",
    "default_cache_tokens",
    "find_repetition",
    "foreseen_runner",
    "make_runner",
    "storing_layers",
]
