"""Settings for every SDALLM call in a block: what a query engine or an agent has no argument for."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from sda_engine.adapting import override_settings
from sda_engine.request_settings import RequestSettings

_blocks: ContextVar[tuple[Mapping[str, object], ...]] = ContextVar("the settings of the blocks around", default=())


@contextmanager
def call_settings(**settings: object) -> Iterator[None]:
    """Give settings to every call of every SDALLM that is made in the block, however deep below it:

        with call_settings(alignment="empathy"):
            answer = query_engine.query(question)

    A call's own keywords come before these, these before the fields of the SDALLM, and an inner block's before an
    outer one's. They hold for the thread or task of the block and for the tasks that are started in it, so requests
    that run side by side do not see each other's. Read a stream inside the block: some of LlamaIndex's call the model
    only when they are read.

    Args:
        settings: alignment, policy, evaluator, gain, amplification, steering, temperature, top_p, top_k, min_p,
            max_tokens, max_reasoning_tokens, stop, seed, logprobs, timeout and template_kwargs, as for a single call.

    Raises:
        ConfigError: a name is unknown, or a value is out of range.
    """
    resolved = override_settings(RequestSettings(), settings, owner="call_settings")
    block = {**settings, "alignment": resolved.alignment} if "alignment" in settings else settings
    token = _blocks.set((*_blocks.get(), block))
    try:
        yield
    finally:
        _blocks.reset(token)


def settings_around() -> tuple[Mapping[str, object], ...]:
    """What the blocks around this call have set, the outermost first."""
    return _blocks.get()
