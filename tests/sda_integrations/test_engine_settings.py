"""Settings of the engine through both adapters, and engines that somebody has closed."""

import pytest

from sda_engine import EngineSettings
from sda_engine.errors import ConfigError
from sda_engine.testing import tiny_model, tiny_tokenizer
from sda_integrations.langchain import ChatSDA
from sda_integrations.llama_index import SDALLM

SETTINGS = EngineSettings(max_rows=6, prefix_cache=False)
LOADERS = {"ChatSDA": (ChatSDA, ChatSDA.load_engine), "SDALLM": (SDALLM, SDALLM.load)}


@pytest.fixture
def folder(tmp_path):
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture(params=LOADERS.values(), ids=LOADERS)
def adapter(request):
    return request.param


def test_they_reach_the_engine_which_others_share(adapter, folder):
    kind, load = adapter
    with load(kind(model=folder, engine_settings=SETTINGS)) as engine:
        assert engine._settings == SETTINGS
        assert load(kind(model=folder)) is engine
        with pytest.raises(ConfigError, match=r"is loaded already.*max_rows=6"):
            load(kind(model=folder, engine_settings=EngineSettings(max_rows=8)))


def test_they_are_refused_beside_an_engine(adapter, engine):
    kind, _ = adapter
    with pytest.raises(ConfigError, match="engine_settings"):
        kind(engine=engine, engine_settings=SETTINGS)


def test_a_closed_engine_is_loaded_anew(adapter, folder):
    kind, load = adapter
    model = kind(model=folder)
    load(model).close()
    with load(model) as again:
        assert not again.closed


async def test_a_closed_engine_is_loaded_anew_for_an_event_loop_too(folder):
    chat, llm = ChatSDA(model=folder), SDALLM(model=folder)
    for load in (lambda: chat._aload_engine(None), llm.aload):
        (await load()).close()
        again = await load()
        assert not again.closed
        again.close()


def test_they_survive_a_dict_of_sdallm(folder):
    again = SDALLM.from_dict(SDALLM(model=folder, engine_settings=SETTINGS).to_dict())
    assert again.engine_settings == SETTINGS


def test_they_are_no_part_of_what_identifies_an_answer(folder):
    plain, with_settings = ChatSDA(model=folder), ChatSDA(model=folder, engine_settings=SETTINGS)
    assert plain._get_llm_string() == with_settings._get_llm_string()
