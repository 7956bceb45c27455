"""One way to call all eight methods of an LLM, and to read what they give."""

from llama_index.core.llms import ChatMessage

from sda_engine import Sampling

OPENING = "The library opens at nine."
METHODS = (
    "complete",
    "chat",
    "stream_complete",
    "stream_chat",
    "acomplete",
    "achat",
    "astream_complete",
    "astream_chat",
)
STREAMING = tuple(method for method in METHODS if "stream" in method)
CHATTING = tuple(method for method in METHODS if "chat" in method)
STRUCTURED = (
    "structured_predict",
    "astructured_predict",
    "stream_structured_predict",
    "astream_structured_predict",
)
OBJECT_STREAMS = tuple(method for method in STRUCTURED if "stream" in method)


async def ask(llm, method, text="Who wrote Faust?", **keywords):
    """All responses of one call of any of the eight methods."""
    given = [ChatMessage(role="user", content=text)] if "chat" in method else text
    return await read(method, getattr(llm, method)(given, **keywords))


async def read(method, result):
    """All that a method gives, be it sync or async, at once or as a stream: what it returns, then awaits and reads."""
    if method.startswith("a"):
        result = await result
    if "stream" in method:
        return [each async for each in result] if method.startswith("a") else list(result)
    return [result]


def text_of(response):
    """The text of a chat or completion response."""
    return response.message.content if hasattr(response, "message") else response.text


def passes_beside(engine, tokens=12):
    """How many forward passes of a request of ours some other request shares."""
    shared = []

    def look(model, args, given, output):
        positions = given["position_ids"][0]  # those of a row follow one another
        shared.append(bool((positions.diff() != 1).any()))

    hook = engine.model.register_forward_hook(look, with_kwargs=True)
    engine.generate([{"role": "user", "content": "Are you busy?"}], sampling=Sampling(max_new_tokens=tokens))
    hook.remove()
    return sum(shared)
