"""LangChain's own suites over a server: what needs a model over a real `sda serve`, the rest over scripted answers."""

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from langchain_tests.unit_tests.chat_models import ChatModelTests

from sda_engine.testing import ScriptedEngine, call_text
from tests.conformance.langchain_suite import CALLS_TOOLS, ChatSDASuite
from tests.servers import sda_serve, serving

JOKE = '{"setup": "Why do cats sit on books?", "punchline": "To be read to."}'
ANSWERS = {
    "test_bind_runnables_as_tools": call_text("greeting_generator", {"answer_style": "pirate"}),
    "test_json_mode": JOKE,
    "test_structured_few_shot_examples": call_text("my_adder_tool", {"a": 3, "b": 4}),
    "test_structured_output": JOKE,
    "test_structured_output_async": JOKE,
    "test_structured_output_optional_param": JOKE,
    "test_structured_output_pydantic_2_v1": JOKE,
    "test_tool_calling_with_no_arguments": call_text("magic_function_no_args", {}),
    "test_tool_choice": call_text("magic_function", {"input": 3}),
}
BY_THE_MODEL = ("test_agent_loop", "test_tool_calling", "test_tool_calling_async", "test_unicode_tool_call_integration")
KEY = "a-key-of-the-suite"


class TestUnit(ChatSDASuite, ChatModelUnitTests):
    """The unit suite. It never asks for an answer, and so no server either."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"base_url": "http://127.0.0.1:1/v1", "model": "smollm2-135m", "alignment": "honesty"}


class OverServer(ChatSDASuite):
    """The integration suite, with the server of a fixture named `url`."""

    @pytest.fixture(autouse=True)
    def choose_server(self, url: str) -> None:
        self.url = url

    @property
    def model_override_value(self) -> str:
        return f"{self.chat_model_params['model']}:empathy"


class TestIntegration(OverServer, ChatModelIntegrationTests):
    """The items in which any model would answer alike: the script of each says how."""

    @pytest.fixture
    def url(self, request: pytest.FixtureRequest) -> Iterator[str]:
        item = request.node.originalname
        if item in BY_THE_MODEL:
            pytest.skip("runs over the real model, see TestCalls")
        with (
            ScriptedEngine(ANSWERS.get(request.node.originalname, "Hello there.")) as engine,
            serving(engine, api_keys=(KEY,)) as url,
        ):
            yield f"{url}/v1"

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"base_url": self.url, "api_key": KEY, "model": "scripted", "alignment": "honesty"}


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """A real `sda serve` of the real model, in a process of its own."""
    with sda_serve("smollm2-135m", "--dtype", "float32", api_key=KEY) as url:
        yield f"{url}/v1"


@pytest.mark.slow
class TestCalls(OverServer, ChatModelTests):
    """The items in which a model has to find out what to call, and with what."""

    test_agent_loop = ChatModelIntegrationTests.test_agent_loop
    test_tool_calling = ChatModelIntegrationTests.test_tool_calling
    test_tool_calling_async = ChatModelIntegrationTests.test_tool_calling_async
    test_unicode_tool_call_integration = ChatModelIntegrationTests.test_unicode_tool_call_integration

    @pytest.fixture
    def url(self, served: str) -> str:
        return served

    @property
    def chat_model_params(self) -> dict[str, Any]:
        asked = {"alignment": CALLS_TOOLS, "temperature": 0, "max_tokens": 64}
        return {"base_url": self.url, "api_key": KEY, "model": "smollm2-135m", **asked}
