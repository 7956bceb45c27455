"""What LangChain's integration suite asks of models that read pictures, over ChatSDA on a tiny one."""

from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests.chat_models import ChatModelTests

from sda_engine.testing import tiny_vision_engine
from sda_integrations.langchain import ChatSDA
from tests.drawings import picture_file


@pytest.fixture(scope="module")
def seeing():
    with tiny_vision_engine() as engine:
        yield engine


class TestChatSDAPictures(ChatModelTests):
    """The items of the suite about pictures; the real model, on which the others run, reads text only."""

    test_image_inputs = ChatModelIntegrationTests.test_image_inputs
    test_image_tool_message = ChatModelIntegrationTests.test_image_tool_message

    @pytest.fixture(autouse=True)
    def offline(self, seeing, monkeypatch: pytest.MonkeyPatch) -> None:
        """The suite fetches its picture, and shows the model the bytes."""
        self.engine = seeing
        fetched = SimpleNamespace(content=picture_file(size=(64, 48)))
        monkeypatch.setattr(httpx, "get", lambda url, timeout: fetched)

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatSDA

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"engine": self.engine, "alignment": "honesty", "max_tokens": 4}

    @property
    def supports_image_inputs(self) -> bool:
        return True

    @property
    def supports_image_urls(self) -> bool:
        return False

    @property
    def supports_image_tool_message(self) -> bool:
        return True

    def test_the_profile_says_so(self, model: BaseChatModel) -> None:
        assert model.profile is not None
        assert model.profile["image_inputs"]
        assert model.profile["image_tool_message"]
        assert not model.profile["image_url_inputs"]
