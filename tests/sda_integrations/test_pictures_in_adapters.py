"""One picture through the engine and both adapters, on a tiny model that sees."""

import base64

import pytest
from langchain_core.messages import HumanMessage
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock

from sda_engine import Sampling, SteeringEngine
from sda_engine.errors import MessageError
from sda_engine.testing import ScriptedEvaluator, tiny_vision_engine
from sda_integrations.langchain import ChatSDA
from sda_integrations.llama_index import SDALLM
from tests.conftest import user
from tests.drawings import picture_file

FILE = picture_file("red", (64, 48))
QUESTION = "What is it?"
GREEDY = Sampling(temperature=0, max_new_tokens=6)
AS_LANGCHAIN_HAS_THEM = {"alignment": "be kind", "temperature": 0, "max_tokens": 6, "policy": "paper"}


@pytest.fixture(scope="module")
def seeing():
    with tiny_vision_engine() as engine:
        yield engine


def chat_about(image):
    return user([{"type": "image", "image": image}, {"type": "text", "text": QUESTION}])


def test_the_engine_and_both_adapters_say_the_same_of_a_picture(seeing: SteeringEngine, tmp_path):
    (tmp_path / "red.png").write_bytes(FILE)
    steering = ChatSDA(engine=seeing, **AS_LANGCHAIN_HAS_THEM)._own_request().steering
    done = seeing.generate(chat_about(FILE), "be kind", steering=steering, sampling=GREEDY)
    block = {"type": "image", "base64": base64.b64encode(FILE).decode(), "mime_type": "image/png"}
    answer = ChatSDA(engine=seeing, **AS_LANGCHAIN_HAS_THEM).invoke([HumanMessage([block, QUESTION])])
    blocks = [ImageBlock(path=tmp_path / "red.png"), TextBlock(text=QUESTION)]
    said = SDALLM(engine=seeing, **AS_LANGCHAIN_HAS_THEM).chat([ChatMessage(role="user", blocks=blocks)])
    assert done.text == answer.text == said.message.content
    assert answer.usage_metadata["input_tokens"] == seeing.count_prompt_tokens(chat_about(tmp_path / "red.png"))


@pytest.mark.parametrize("picture", ["https://example.org/cat.png", "/etc/passwd", b"broken"])
async def test_a_model_that_sees_fetches_nothing_and_opens_nothing(picture, seeing):
    for refuse in (seeing.generate, seeing.count_prompt_tokens):
        with pytest.raises(MessageError, match=r"messages\[0\] has a picture"):
            refuse(chat_about(picture))
    with pytest.raises(MessageError, match=r"messages\[0\] has a picture"):
        await seeing.agenerate(chat_about(picture))


async def test_an_evaluator_is_given_the_picture_itself(seeing):
    evaluator = ScriptedEvaluator([50])
    seeing.rate(chat_about(FILE), "A square.", "honesty", evaluator)
    await seeing.arate(chat_about(FILE), "A square.", "honesty", evaluator)
    first, second = (request.messages[0]["content"][0]["picture"] for request in evaluator.requests)
    assert first == second
    assert first.image.size == (64, 48)
