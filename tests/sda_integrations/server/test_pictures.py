"""Pictures over a server: they go as data URLs, and are seen as they are in process."""

import io

import openai
import pytest
from langchain_core.messages import HumanMessage
from PIL import Image

from sda_engine import Completion, RemoteEngine, Sampling
from sda_engine.errors import MessageError
from sda_engine.testing import tiny_vision_engine
from sda_integrations.langchain import ChatSDA
from tests.drawings import data_url, picture_file
from tests.servers import serving

GREEDY = Sampling(temperature=0, max_new_tokens=6, logprobs=0)


@pytest.fixture(scope="module")
def seeing():
    with tiny_vision_engine() as engine:
        yield engine


@pytest.fixture(scope="module")
def url(seeing):
    with serving(seeing, served_model_name="seeing") as address:
        yield f"{address}/v1"


def chat_about(image: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "What is it?"}]}]


def test_a_picture_is_seen_over_the_server_as_in_process(seeing, url):
    file = picture_file(size=(40, 30))
    with RemoteEngine(url, model="seeing") as remote:
        assert remote.reads_pictures
        for image in (file, Image.open(io.BytesIO(file))):
            here = seeing.generate(chat_about(image), "honesty", sampling=GREEDY)
            there = remote.generate(chat_about(image), "honesty", sampling=GREEDY)
            assert there.token_ids == here.token_ids
            assert logprobs_of(there) == pytest.approx(logprobs_of(here), abs=1e-5)
        other = remote.generate(chat_about(picture_file("blue", size=(40, 30))), "honesty", sampling=GREEDY)
    assert logprobs_of(other) != pytest.approx(logprobs_of(here), abs=1e-5), "a tiny model looks at it, too"


async def test_a_picture_goes_through_chat_models_over_the_server(seeing, url):
    picture = {"type": "image_url", "image_url": {"url": data_url()}}
    block = HumanMessage([picture, {"type": "text", "text": "What?"}])
    settings = {"alignment": "honesty", "temperature": 0, "max_tokens": 6}
    here = ChatSDA(engine=seeing, **settings).invoke([block])
    there = await ChatSDA(base_url=url, model="seeing", **settings).ainvoke([block])
    assert there.text == here.text


def test_an_address_of_a_picture_is_refused_with_the_reason(url):
    asked = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/a.png"}}]}]
    with openai.OpenAI(base_url=url, api_key="none") as client, pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="seeing", messages=asked)
    assert refused.value.param == "messages"
    assert "fetch" in str(refused.value)
    with RemoteEngine(url, model="seeing") as remote, pytest.raises(MessageError, match="fetch"):
        remote.generate(chat_about("http://127.0.0.1:1/a.png"))


def logprobs_of(done: Completion) -> list[float]:
    assert done.logprobs is not None
    return [place.chosen.logprob for place in done.logprobs]
