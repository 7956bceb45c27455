"""Where the made-up requests of this package draw from."""

import random

from sda_engine.errors import ConfigError


def generator_of(purpose: str, count: int, seed: int) -> random.Random:
    """A generator of its own for a purpose and a seed; Python's global one is left alone.

    Args:
        purpose: what is drawn, so that two kinds of requests with the same seed do not draw alike.
        count: how many requests are asked for, at least 1.
        seed: any integer.

    Raises:
        ConfigError: the count is less than 1.
    """
    if count < 1:
        raise ConfigError(f"The count cannot be {count}: it must be 1 or more.")
    return random.Random(f"{purpose} {seed}")  # noqa: S311  # nothing here is a secret
