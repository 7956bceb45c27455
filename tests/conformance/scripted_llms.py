"""SDALLMs whose answers a test knows: over a scripted engine in this process, or over the server of one."""

from collections.abc import Iterator
from contextlib import contextmanager

from sda_engine.testing import ScriptedEngine, ScriptedRequest
from sda_integrations.llama_index import SDALLM
from tests.servers import serving

_served: dict[str, ScriptedEngine] = {}  # by the addresses that LLMs know them by


@contextmanager
def scripted_llm(engine: ScriptedEngine, *, over_server: bool, **settings: object) -> Iterator[SDALLM]:
    """An SDALLM of an engine, which is closed at the end.

    Args:
        engine: what answers.
        over_server: whether the LLM knows no more of it than the address of its server.
        settings: of the LLM.
    """
    with engine:
        if not over_server:
            yield SDALLM(engine=engine, **settings)
            return
        with serving(engine) as url:
            address = f"{url}/v1"
            _served[address] = engine
            yield SDALLM(base_url=address, model=engine.name, **settings)
            del _served[address]


def requests_of(llm: SDALLM) -> list[ScriptedRequest]:
    """What has reached the engine behind an LLM so far."""
    engine = llm.engine if llm.base_url is None else _served[llm.base_url]
    assert isinstance(engine, ScriptedEngine)
    return engine.requests
