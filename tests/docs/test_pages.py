"""Every Python fence of README.md and docs/ runs, page by page from top to bottom, as a reader would run it.

The pages load models by name, read a folder and ask a judge. Here an engine with scripted answers stands in for the
named model, or a tiny one where the model has to see, and nothing opens a socket.
"""

import ast
import asyncio
import inspect
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

import llama_index.core
import pytest
from markdown_it import MarkdownIt

from sda_engine import SteeringEngine
from sda_engine.evaluators import OpenAIEvaluator, Score
from sda_engine.testing import CHAT_TEMPLATE, ScriptedEngine, call_text, tiny_vision_engine
from tests.servers import serving
from tests.thinking import QWEN3

pytestmark = pytest.mark.default_policy

CONNECT = socket.socket.connect
ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [page for page in (README, *sorted((ROOT / "docs").rglob("*.md"))) if "```python" in page.read_text("utf-8")]

CALL = call_text("opening_hours", {"day": "Monday"})
THOUGHT = "<think>\nThe sign says so.\n</think>\n\nIt opens at nine."
ADA = '{"name": "Ada", "age": 36}'
NINE = "The reading room opens at nine."
# What the model of a page answers, request by request; the last one repeats. On other pages it always answers NINE
ANSWERS = {
    "how-to/agents.md": [CALL, CALL, "From nine to six.", "Hello.", CALL, "From nine to six."],
    "how-to/structured-output.md": [ADA, ADA, ADA, "yes", "2031-07"],
    "how-to/thinking.md": [THOUGHT],
}
SEE = ("how-to/pictures.md",)  # pages whose model reads pictures; what it answers means nothing
ASK_A_SERVER = (
    "README.md",
    "how-to/serve.md",
    "how-to/vllm.md",
)  # pages whose model is behind http://localhost:8000/v1


def fences(page: Path) -> Iterator[ast.Module]:
    """The page's Python fences, with the page's line numbers."""
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type == "fence" and token.info.split()[:1] == ["python"]:
            assert token.map is not None
            above = "\n" * (token.map[0] + 1)
            yield compile(above + token.content, page, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.fixture
def reader(request, monkeypatch, tmp_path):
    """What a reader has and the test has not: models, an embedding model, a key, a folder of documents."""
    monkeypatch.chdir(tmp_path)
    Path("library").mkdir()
    Path("library/hours.txt").write_text(NINE)

    engines, servers = [], ExitStack()

    page = request.node.callspec.id

    def load(model, **settings):
        if not engines:
            if page in SEE:
                engines.append(tiny_vision_engine())
            else:
                template = QWEN3 if page == "how-to/thinking.md" else CHAT_TEMPLATE
                engines.append(ScriptedEngine(ANSWERS.get(page, NINE), chat_template=template))
        return engines[0]

    monkeypatch.setattr(SteeringEngine, "load", load)
    monkeypatch.setitem(sys.modules, "llama_index.embeddings.huggingface", embeddings())
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-a-key")
    monkeypatch.setattr(OpenAIEvaluator, "evaluate", lambda judge, rated: Score(value=60.0, evaluator=judge.name))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    if page in ASK_A_SERVER:
        url = servers.enter_context(serving(load("smollm2-135m"), served_model_name="smollm2-135m"))
        monkeypatch.setattr(socket.socket, "connect", connect_in_place_of_port_8000(urlsplit(url).port))
    monkeypatch.setattr(llama_index.core.Settings, "_llm", None)  # pages set them for the whole process
    monkeypatch.setattr(llama_index.core.Settings, "_embed_model", None)
    with servers:
        yield
    for engine in engines:
        engine.close()


def embeddings() -> ModuleType:
    """In place of a module that takes ten seconds to import and then asks the Hub."""
    module = ModuleType("llama_index.embeddings.huggingface")
    module.HuggingFaceEmbedding = lambda: llama_index.core.MockEmbedding(embed_dim=8)  # type: ignore[attr-defined]
    return module


def refuse(_: socket.socket, address: object) -> None:
    """A page must not reach for the network."""
    raise AssertionError(f"a page opens a connection to {address}")


def connect_in_place_of_port_8000(port: int):
    """What connects to the server of this test where a page means the one at localhost:8000, and refuses all else."""

    def connect_there(given: socket.socket, address: tuple[str, int]) -> None:
        if address[:2] == ("::1", 8000):
            raise ConnectionRefusedError("the server of this test listens at 127.0.0.1 alone")
        if address[:2] != ("127.0.0.1", 8000):
            refuse(given, address)
        CONNECT(given, ("127.0.0.1", port))

    return connect_there


@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")  # of LlamaIndex's own agents
@pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning")
@pytest.mark.usefixtures("reader", "no_event_loop_is_left_behind")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)).removeprefix("docs/"))
def test_the_code_of_a_page_runs(page):
    namespace = {"__name__": "__main__"}
    for fence in fences(page):
        code = compile(fence, page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(eval(code, namespace))  # noqa: S307
        else:
            exec(code, namespace)  # noqa: S102


def test_the_pages_with_scripted_answers_exist():
    pages = {str(page.relative_to(ROOT)).removeprefix("docs/") for page in PAGES}
    assert {*ANSWERS, *SEE, *ASK_A_SERVER} <= pages


def test_the_readme_stays_an_entrance():
    assert len(README.read_text("utf-8").splitlines()) <= 170, "move what is new to docs/"
