"""One model in memory, however often it is asked for; and none once its engine has been closed."""

import gc
import os
import threading
import weakref
from pathlib import Path

import pytest

from sda_engine import EngineSettings, Sampling, SteeringEngine
from sda_engine.errors import ConfigError, EngineClosedError
from sda_engine.models import load_model
from sda_engine.testing import tiny_engine, tiny_model, tiny_tokenizer
from tests.conftest import user

PATIENCE = 60  # seconds until a test that hangs has failed


@pytest.fixture
def folder(tmp_path):
    return saved(tmp_path / "model")


def saved(path):
    tiny_model().save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return str(path)


@pytest.fixture
def loaded_models(monkeypatch):
    """The names of the models whose weights have been loaded."""
    names = []
    monkeypatch.setattr(
        "sda_engine.engine.load_model", lambda settings: names.append(settings.model) or load_model(settings)
    )
    return names


def ask(engine):
    return engine.generate(user("hi"), "be kind", sampling=Sampling(temperature=0, max_new_tokens=4))


# --- one model in memory


def test_however_a_model_is_spelled_its_weights_are_loaded_once(folder, loaded_models, monkeypatch):
    monkeypatch.chdir(Path(folder).parent)
    with SteeringEngine.load(folder, device="cpu", dtype="float32") as engine:
        for name in ("./model", "model", folder + os.sep, os.path.join(folder, "..", "model")):
            assert SteeringEngine.load(name, device="cpu", dtype="float32") is engine
    assert loaded_models == [folder]


def test_auto_is_the_device_and_the_dtype_that_it_means(folder, loaded_models):
    with SteeringEngine.load(folder) as engine:
        told = engine.describe()
        assert SteeringEngine.load(folder, device=str(told["device"]), dtype=str(told["dtype"])) is engine
    assert len(loaded_models) == 1


def test_who_asks_without_settings_shares_the_engine_that_has_some(folder, loaded_models):
    with SteeringEngine.load(folder, settings=EngineSettings(max_rows=8)) as engine:
        assert SteeringEngine.load(folder) is engine
        assert SteeringEngine.load(folder, settings=EngineSettings(max_rows=8)) is engine
    assert len(loaded_models) == 1


@pytest.mark.parametrize("first", [None, EngineSettings(), EngineSettings(max_rows=6)])
def test_a_second_set_of_settings_is_refused_and_loads_nothing(folder, loaded_models, first):
    with SteeringEngine.load(folder, settings=first) as engine:
        with pytest.raises(ConfigError, match=r"max_rows=8.*is loaded already.*engine=.*close it"):
            SteeringEngine.load(folder, settings=EngineSettings(max_rows=8))
        assert ask(engine).token_ids
    assert len(loaded_models) == 1
    with SteeringEngine.load(folder, settings=EngineSettings(max_rows=8)) as engine:
        assert ask(engine).token_ids


def test_a_model_that_could_not_be_loaded_can_be_asked_for_again(folder, monkeypatch):
    def fail(settings):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("sda_engine.engine.load_model", fail)
        with pytest.raises(MemoryError):
            SteeringEngine.load(folder)
    with SteeringEngine.load(folder) as engine:
        assert ask(engine).token_ids


def test_threads_that_ask_for_one_model_at_once_get_one_engine(folder, loaded_models):
    engines = []
    threads = [threading.Thread(target=lambda: engines.append(SteeringEngine.load(folder))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(engines) == 6
    assert len(set(map(id, engines))) == len(loaded_models) == 1
    engines[0].close()


# --- while another model is being loaded


@pytest.fixture
def slow_model(tmp_path, monkeypatch):
    """The folder of a model whose loading has begun in another thread, and goes on until the test is over."""
    path, begun, may_end = saved(tmp_path / "slow"), threading.Event(), threading.Event()

    def load(settings):
        if settings.model == path:
            begun.set()
            may_end.wait(PATIENCE)
        return load_model(settings)

    monkeypatch.setattr("sda_engine.engine.load_model", load)
    thread = threading.Thread(target=lambda: SteeringEngine.load(path).close())
    thread.start()
    assert begun.wait(PATIENCE)
    yield path
    may_end.set()
    thread.join(PATIENCE)


def finishes(work):
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE / 4)
    return not thread.is_alive()


def test_closing_an_engine_does_not_wait_for_a_model_that_is_being_loaded(slow_model):
    assert finishes(tiny_engine().close)


def test_another_model_can_be_loaded_and_closed_meanwhile(slow_model, folder):
    assert finishes(lambda: SteeringEngine.load(folder).close())


# --- after the end


def test_a_closed_engine_is_not_given_out(folder):
    first = SteeringEngine.load(folder)
    assert not first.closed
    first.close()
    assert first.closed
    with SteeringEngine.load(folder) as second:
        assert second is not first
        assert ask(second).token_ids


def test_an_engine_that_is_being_closed_is_not_given_out(folder, monkeypatch):
    first = SteeringEngine.load(folder)
    others = []
    end = first._scheduler.close
    monkeypatch.setattr(first._scheduler, "close", lambda: (others.append(SteeringEngine.load(folder)), end()))
    first.close()
    assert others[0] is not first
    assert ask(others[0]).token_ids
    others[0].close()


@pytest.mark.parametrize("requests", ["none", "one", "one that is left in the middle"])
def test_a_closed_engine_keeps_no_model_in_memory(folder, requests):
    engine = SteeringEngine.load(folder)
    kept = [engine.stream(user("hi"), sampling=Sampling(max_new_tokens=500))]  # begun or not, it knows the engine
    if requests == "one":
        ask(engine)
    if requests == "one that is left in the middle":
        next(kept[0])
    model, weights = weakref.ref(engine.model), weakref.ref(next(engine.model.parameters()))
    engine.close()
    gc.collect()
    assert model() is None
    assert weights() is None


def test_the_models_owner_keeps_it(folder):
    model = tiny_model()
    engine = SteeringEngine(model, tiny_tokenizer())
    engine.close()
    assert model.training is False
    with SteeringEngine(model, tiny_tokenizer()) as again:
        assert ask(again).token_ids


def test_a_closed_engine_says_so_and_still_tells_what_it_was(folder):
    engine = SteeringEngine.load(folder, dtype="float32")
    before = (engine.describe(), repr(engine), engine.name, engine.context_window, engine.encode("hi"))
    engine.close()
    engine.close()  # once more changes nothing
    with pytest.raises(EngineClosedError, match=r"closed.*SteeringEngine\.load"):
        _ = engine.model
    with pytest.raises(EngineClosedError):
        ask(engine)
    assert (engine.describe(), repr(engine), engine.name, engine.context_window, engine.encode("hi")) == before
    assert engine.tokenizer.decode(engine.encode("hi")) == "hi"
