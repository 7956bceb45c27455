"""The call as code: the same settings as on the page, whatever text is in them, and never the key."""

import ast
import json
import subprocess

import pytest
from playwright.sync_api import expect

from sda_integrations.langchain import ChatSDA
from sda_integrations.llama_index import SDALLM

NASTY = '"quotes" \'single\' \\n \\ `$(touch x)` ${HOME} \n\tJSON\nEOF {{braces}} 中文 🩺 \u202e\u2028 """ %s é'
UNSEEN = set("\u202e\u2028")


@pytest.fixture
def filled(opened):
    """The page with text in every field that has done harm somewhere."""
    page = opened.connect()
    page.get_by_label("Alignment", exact=True).select_option("your own instruction")
    page.get_by_label("Strength").fill("2.5")
    opened.run(
        {
            "Prompt": NASTY,
            "System prompt optional": f"{NASTY}!",
            "Instruction of your own": f"{NASTY}?",
            "Temperature": "0.25",
            "Seed": "7",
        }
    )
    return opened


def calls(code):
    """The calls in a script by what they call: their positional values and their keywords."""
    return {ast.unparse(node.func): node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)}


def keywords(call):
    return {keyword.arg: keyword.value for keyword in call.keywords}


def literals(call):
    return {name: ast.literal_eval(value) for name, value in keywords(call).items()}


def messages(code):
    (assigned,) = (
        node.value
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "messages"
    )
    return assigned.elts


def fields(address):
    return {
        "base_url": f"{address}v1",
        "model": "tiny",
        "alignment": f"{NASTY}?",
        "gain": 2.5,
        "amplification": 1,
        "max_tokens": 160,
        "temperature": 0.25,
        "seed": 7,
    }


def test_both_adapters_get_the_same_call(filled):
    langchain, llamaindex = filled.code("LangChain"), filled.code("LlamaIndex")
    assert literals(calls(langchain)["ChatSDA"]) == literals(calls(llamaindex)["SDALLM"]) == fields(filled.address)
    assert [ast.literal_eval(pair) for pair in messages(langchain)] == [("system", f"{NASTY}!"), ("human", NASTY)]
    assert [literals(message) for message in messages(llamaindex)] == [
        {"role": "system", "content": f"{NASTY}!"},
        {"role": "user", "content": NASTY},
    ]
    assert "for piece in chat.stream(messages):" in langchain
    assert "for piece in llm.stream_chat(messages):" in llamaindex
    assert not UNSEEN & set(langchain + llamaindex)


def test_the_fields_are_those_of_the_adapters():
    names = set(fields("/")) - {"base_url"}
    assert names <= set(ChatSDA.model_fields)
    assert names <= set(SDALLM.model_fields)


def test_what_the_shell_sends_is_what_the_page_sent_but_for_the_trace(filled, script):
    """A function in place of curl tells its arguments and its input."""
    shadow = "curl() { printf '%s\\n' \"$@\" >&2; cat; }\n"
    ran = subprocess.run(  # noqa: S602 (the code is for a shell)
        shadow + filled.code("curl"), shell=True, executable="/bin/bash", capture_output=True, text=True, check=True
    )
    sent = script.bodies["steered"]
    assert sent["sda"].pop("trace") is True
    assert json.loads(ran.stdout) == sent
    assert f"{filled.address}v1/chat/completions" in ran.stderr.splitlines()


def test_what_is_to_be_avoided_makes_an_alignment_object(opened):
    opened.connect()
    opened.run({"Avoid optional": "Legal terms."})
    for language in ("LangChain", "LlamaIndex"):
        code = opened.code(language)
        assert "from sda_engine import Alignment" in code
        assert literals(calls(code)["Alignment"]) == {
            "name": "empathy",
            "instruction": "Reply warmly.",
            "rubric": "Rate the warmth.",
            "avoid": "Legal terms.",
        }


def test_a_strength_by_score_names_no_amplification(opened):
    page = opened.connect()
    page.get_by_label("Let the evaluator's score decide").check()
    assert "amplification" not in keywords(calls(opened.code("LangChain"))["ChatSDA"])


def test_the_key_is_in_no_code(opened, script):
    script.key = "secret-key"
    page = opened.page
    page.goto(opened.address)
    page.get_by_label("API key").fill("secret-key")
    page.get_by_role("button", name="Connect").click()
    expect(page.locator("#model option").first).to_be_attached()
    for language in ("LangChain", "LlamaIndex", "curl"):
        code = opened.code(language)
        assert "secret-key" not in code
        assert "SDA_API_KEY" in code
    assert ast.unparse(keywords(calls(opened.code("LangChain"))["ChatSDA"])["api_key"]) == "os.environ['SDA_API_KEY']"


def test_the_code_is_copied_or_selected_where_the_browser_forbids_to_copy(opened):
    page = opened.connect()
    code = opened.code("curl")
    page.evaluate("() => { navigator.clipboard.writeText = async (text) => { globalThis.copied = text; }; }")
    page.get_by_role("button", name="Copy").click()
    expect(page.locator("#copied")).to_have_text("Copied.")
    assert page.evaluate("() => globalThis.copied") == code
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error()); }")
    page.get_by_role("button", name="Copy").click()
    expect(page.locator("#copied")).to_have_text("Selected: copy it with your keyboard.")
    assert page.evaluate("() => getSelection().toString()").strip() == code.strip()
