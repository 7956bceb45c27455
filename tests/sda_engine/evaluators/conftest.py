"""The fixtures of a judge behind a real server."""

from tests.sda_engine.evaluators.judges import clean_environment, elsewhere, judge, other_server, quick_retries, server

__all__ = ["clean_environment", "elsewhere", "judge", "other_server", "quick_retries", "server"]
