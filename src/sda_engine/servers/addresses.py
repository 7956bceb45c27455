"""Addresses of servers: plain URLs, in which no secret can hide."""

import ipaddress
import re

from sda_engine.errors import ConfigError

_URL = re.compile(
    r"""(?i:https?)://
    (?: \[(?P<ipv6>[^\]%]*)\] | (?P<ipv4>[\d.]+) | [\w-]{1,63}(?:\.[\w-]{1,63})*\.? )
    (?: :(?P<port>\d{1,5}) )?
    (?: /[^\s?#]* )?""",
    re.ASCII | re.VERBOSE,
)


def check_url(owner: str, base_url: object) -> str:
    """A plain URL without anything that could be a secret, and with a host that every HTTP client takes.

    Args:
        owner: what was given the URL, for the error.
        base_url: the root of an API.

    Raises:
        ConfigError: it is none.
    """
    if not (isinstance(base_url, str) and base_url.isascii() and len(base_url) <= 2000 and _is_plain(base_url)):
        secret = isinstance(base_url, str) and re.search("[@?#]", base_url)
        shown = "what was given (not shown here, since it may hold a secret)" if secret else repr(base_url)
        raise ConfigError(
            f"{owner}.base_url cannot be {shown}: it must be http(s)://host[:port][/path] in ASCII, "
            f"without user name, password, query and fragment, e.g. 'http://localhost:8000/v1'. Keys go into "
            f"api_key."
        )
    return base_url.rstrip("/")


def _is_plain(url: str) -> bool:
    match = _URL.fullmatch(url)
    if match is None or not 0 < int(match["port"] or 80) < 65536:
        return False
    try:
        ipaddress.IPv6Address(match["ipv6"] or "::")
        ipaddress.IPv4Address(match["ipv4"] or "0.0.0.0")  # noqa: S104 - nothing is bound to it
    except ValueError:
        return False
    return True
