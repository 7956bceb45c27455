"""Requirement 26: without an external evaluator nothing opens a network socket, even where OPENAI_API_KEY is set."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sda_engine.testing import tiny_model, tiny_tokenizer

# Audit hooks cannot be removed again, so the scenarios get a process of their own. It writes down every socket of a
# network family, every connection and every look-up; event loops wake themselves by a socket pair, which is neither,
# and urllib3, once imported, binds a port to learn whether there is IPv6, and drops it again.
WATCHED = """
import json, socket, sys

opened = []

def watch(event, arguments):
    if not event.startswith("socket."):
        return
    caller = sys._getframe(1)
    while caller.f_globals["__name__"] == "socket" and caller.f_back is not None:
        caller = caller.f_back
    if caller.f_code.co_name == "_has_ipv6":
        return
    if event == "socket.__new__":
        if arguments[1] in (socket.AF_INET, socket.AF_INET6, -1):
            opened.append([event, str(arguments[1:])])
    elif event != "socket.gethostname":
        opened.append([event, str(arguments[1:])])

sys.addaudithook(watch)
"""
SAW_A_CONNECTION = """
seen = len(opened)
try:
    socket.create_connection(("127.0.0.1", 9), timeout=1).close()
except OSError:
    pass
watched = len(opened) > seen
"""

ENGINE = """
import asyncio
from sda_engine import Alignment, Sampling, Steering, SteeringEngine
from sda_engine.evaluators import ContrastiveEvaluator

QUESTION = [{"role": "user", "content": "what is in the library?"}]
SHORT = Sampling(max_new_tokens=4, seed=1)
engine = SteeringEngine.load(MODEL)
for alignment in (None, "honesty", Alignment(instruction="be kind", avoid="rude text")):
    engine.generate(QUESTION, alignment, sampling=SHORT)
    list(engine.stream(QUESTION, alignment, sampling=SHORT))
    asyncio.run(engine.agenerate(QUESTION, alignment, sampling=SHORT))
done = engine.generate(QUESTION, "honesty", steering=Steering(evaluator=ContrastiveEvaluator()), sampling=SHORT)
assert done.score.value > 0
assert done.trace.to_html() and done.trace.to_text()
engine.close()
"""
LANGCHAIN = """
import asyncio
from sda_integrations.langchain import ChatSDA

chat = ChatSDA(model=MODEL, alignment="honesty", max_tokens=4, api_key="sk-canary", max_retries=2)
assert chat.invoke("what is in the library?").response_metadata
list(chat.stream("what is in the library?"))
asyncio.run(chat.ainvoke("what is in the library?"))
chat.batch(["one", "two"])
chat.load_engine().close()
"""
LLAMA_INDEX = """
import asyncio
from llama_index.core.llms import ChatMessage
from sda_integrations.llama_index import SDALLM

llm = SDALLM(model=MODEL, alignment="honesty", max_tokens=4)
llm.complete("what is in the library?")
llm.chat([ChatMessage(role="user", content="what is in the library?")])
list(llm.stream_complete("what is in the library?"))
asyncio.run(llm.acomplete("what is in the library?"))
llm.load().close()
"""
BY_NAME = """
from sda_integrations.langchain import ChatSDA
from sda_integrations.llama_index import SDALLM

ChatSDA(model="smollm2-135m", alignment="honesty", max_tokens=4, api_key="sk-canary").invoke("what is it?")
SDALLM(model="smollm2-135m", alignment="honesty", max_tokens=4).complete("what is it?")
"""
JUDGED = """
from sda_engine.evaluators import OpenAIEvaluator

evaluator = OpenAIEvaluator("judge", base_url=CLOSED, max_retries=0)
steering = Steering(evaluator=evaluator, on_evaluator_error="fixed")
with SteeringEngine.load(MODEL) as engine:
    engine.generate(QUESTION, "honesty", steering=steering, sampling=Sampling(seed=1))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model on the disk."""
    path = tmp_path_factory.mktemp("tiny")
    tiny_model().save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def opened(folder: Path) -> dict[str, list[str]]:
    """The socket events of each scenario, one after the other in one process, where all of OpenAI's variables are set.

    One process, since its imports take longer than the scenarios.
    """
    offline = {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"}  # without these a wish to go online would be followed
    tracing = {name for name in os.environ if name.startswith(("LANGSMITH_", "LANGCHAIN_", "COV_"))}
    environment = {name: value for name, value in os.environ.items() if name not in offline | tracing}
    keys = {"OPENAI_API_KEY": "sk-canary-0123456789", "OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
    script = f"""
{WATCHED}
MODEL, CLOSED = {str(folder)!r}, {url!r}
{ENGINE}
{LANGCHAIN}
{LLAMA_INDEX}
everything = len(opened)
{BY_NAME}
by_name = len(opened)
{JUDGED}
judged = len(opened)
{SAW_A_CONNECTION}
print(json.dumps({{
    "everything": opened[:everything], "by name": opened[everything:by_name], "judged": opened[by_name:judged],
    "watched": watched,
}}))
"""
    child = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**environment, **keys, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert child.returncode == 0, child.stderr
    report: dict[str, list[str]] = json.loads(child.stdout.splitlines()[-1])
    assert report["watched"], "the hook did not see a connection that was made on purpose"
    return report


# All of them are slow, for they share a process


@pytest.mark.slow
def test_no_socket_is_opened_without_an_external_evaluator(opened: dict[str, list[str]]) -> None:
    assert opened["everything"] == []


@pytest.mark.slow
def test_no_socket_is_opened_with_the_default_model(opened: dict[str, list[str]]) -> None:
    assert opened["by name"] == []


@pytest.mark.slow
def test_an_external_evaluator_is_seen_to_connect_where_one_is_configured(opened: dict[str, list[str]]) -> None:
    assert "socket.connect" in [event for event, _ in opened["judged"]]
