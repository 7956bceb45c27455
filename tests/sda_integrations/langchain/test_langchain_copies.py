"""What becomes of a ChatSDA that is pickled or copied, and what tells its answers from those of other weights."""

import copy
import pickle
from typing import Any

import pytest
from langchain.agents.middleware import SummarizationMiddleware
from langchain_core.caches import InMemoryCache

from sda_engine import SteeringEngine
from sda_engine.errors import ModelLoadError
from sda_engine.testing import tiny_engine, tiny_model, tiny_tokenizer
from sda_integrations.langchain import ChatSDA

SHORT: dict[str, Any] = {"max_tokens": 3, "temperature": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """A model that can be loaded by its name."""
    place = tmp_path_factory.mktemp("model")
    tokenizer = tiny_tokenizer()
    tiny_model(vocab_size=len(tokenizer), context_window=777).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return str(place)


def again(chat: ChatSDA) -> ChatSDA:
    found = pickle.loads(pickle.dumps(chat))  # noqa: S301
    assert isinstance(found, ChatSDA)
    return found


def test_a_used_model_is_pickled_without_its_engine_and_loads_it_again_by_name(folder) -> None:
    chat = ChatSDA(model=folder, alignment="honesty", dtype="float32", **SHORT)
    answer = chat.invoke("Hi").text
    copied = again(chat)
    assert copied._loaded is None
    assert (copied.alignment, copied.invoke("Hi").text) == ("honesty", answer)
    chat.load_engine().close()


def test_a_pickled_copy_of_one_with_a_loaded_engine_loads_the_same(folder) -> None:
    with SteeringEngine.load(folder, dtype="bfloat16") as engine:
        copied = again(ChatSDA(engine=engine, **SHORT))
        assert (copied.engine, copied.model, copied.dtype) == (None, folder, "bfloat16")
        copied.load_engine().close()


def test_a_pickled_copy_of_a_model_in_memory_says_that_it_needs_an_engine(tiny) -> None:
    copied = again(again(ChatSDA(engine=tiny, **SHORT)))
    assert (copied.engine, copied.model) == (None, tiny.name)
    with pytest.raises(ModelLoadError, match="Give the copy an engine"):
        copied.invoke("Hi")
    assert copied.model_copy(update={"engine": tiny}).invoke("Hi").usage_metadata


def test_deep_copies_share_the_engine_before_and_after_use(tiny, folder) -> None:
    chat = ChatSDA(engine=tiny, stop=["x"], **SHORT)
    copied = copy.deepcopy(chat)
    assert copied.engine is tiny
    assert copied.stop is not chat.stop
    used = ChatSDA(model=folder, **SHORT)
    used.invoke("Hi")
    assert copy.deepcopy(used).load_engine() is used.load_engine()
    used.load_engine().close()


def test_models_in_memory_of_one_name_do_not_share_cached_answers() -> None:
    cache = InMemoryCache()
    with tiny_engine() as one, tiny_engine(seed=5) as other:
        first, second, same = (ChatSDA(engine=engine, cache=cache, **SHORT) for engine in (one, other, one))
        answers = [chat.invoke("Hi").text for chat in (first, second, same)]
        assert answers[0] == answers[2] != answers[1]
        assert len(cache._cache) == 2


def test_weights_that_were_changed_do_not_get_the_old_ones_cached_answers(folder) -> None:
    cache = InMemoryCache()
    loaded = ChatSDA(model=folder, cache=cache, **SHORT)
    with tiny_engine() as engine, tiny_engine(seed=5) as other, loaded.load_engine():
        for chat in (ChatSDA(engine=engine, cache=cache, **SHORT), loaded):
            before, keys = chat._get_llm_string(), len(cache._cache)
            chat.invoke("Hi")
            assert chat._get_llm_string() == before
            chat.load_engine().model.load_state_dict(other.model.state_dict())
            chat.invoke("Hi")
            assert chat._get_llm_string() == chat._get_llm_string() != before
            assert len(cache._cache) == keys + 2


def test_the_window_is_in_the_profile_before_the_model_is_loaded(folder) -> None:
    chat = ChatSDA(model=folder)
    assert chat._loaded is None
    assert chat.profile == {**ChatSDA(model="no/such-model").profile, "max_input_tokens": 776}
    assert SummarizationMiddleware(model=chat, trigger=("fraction", 0.8))
    assert chat._loaded is None


def test_the_embedded_models_window_is_in_the_profile() -> None:
    assert ChatSDA(model="smollm2-135m").profile["max_input_tokens"] == 8191
