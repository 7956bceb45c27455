"""Servers that speak OpenAI's API: where prompts and keys may go, and how nothing of them goes anywhere else.

Judges and engines on other machines are reached through these.
"""

from sda_engine.servers.addresses import check_url
from sda_engine.servers.clients import open_client
from sda_engine.servers.keys import NO_KEY, check_key, hide_key, hide_key_in
from sda_engine.servers.waits import retry_after

__all__ = ["NO_KEY", "check_key", "check_url", "hide_key", "hide_key_in", "open_client", "retry_after"]
