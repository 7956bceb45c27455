"""LangChain's pair of settings for log-probabilities, as the engine's one number."""

from sda_engine.errors import ConfigError


def count_logprobs(wanted: object, top: object) -> object:
    """How many top log-probabilities to ask the engine for, or None for no log-probabilities.

    Args:
        wanted: LangChain's `logprobs`: True, False or None.
        top: LangChain's `top_logprobs`: how many; checked by Sampling.

    Raises:
        ConfigError: `wanted` is not a bool, or False with a number of them.
    """
    if wanted is not None and not isinstance(wanted, bool):
        raise ConfigError(f"logprobs cannot be {wanted!r}: it must be True or False. top_logprobs says how many.")
    if wanted is False and top is not None:
        raise ConfigError(f"top_logprobs={top!r} needs log-probabilities: leave out logprobs=False.")
    if top is not None:
        return top
    return 0 if wanted else None
