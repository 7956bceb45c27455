"""Who competes in speed.py: a contender takes requests and token counts, and tells how long it decoded.

Each one lives in a module that is imported only when it is built, so that the memory of a process that runs one
contender is that contender's alone.
"""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module

Message = Mapping[str, object]

STRENGTH = 1.0  # of steering; a guidance scale of 2

SDA = "SDA engine"
CHAT_SDA = "ChatSDA"
SDALLM = "SDALLM"
SDA_TOGETHER = "SDA engine, all at once"
CHAT_SDA_BATCH = "ChatSDA.batch"
SDA_SCORED = "SDA engine, score-guided"
SDA_FIRST_TOKEN = "SDA engine, new context"  # noqa: S105 - a name in a table
SDA_SECOND_QUESTION = "SDA engine, second question"
GENERATE = "generate"
GUIDANCE = "generate, guidance_scale"
PROMPT_LOOKUP = "generate, prompt lookup"
PADDED_BATCH = "generate, one padded batch"
FIRST_TOKEN = "generate, one token"  # noqa: S105 - a name in a table
TWO_FORWARDS = "two forward passes"
CHAT_HUGGING_FACE = "ChatHuggingFace"
HUGGING_FACE_LLM = "HuggingFaceLLM"

_BUILDERS: Mapping[str, str] = {
    SDA: "ours:steered",
    SDA_TOGETHER: "ours:all_at_once",
    SDA_SCORED: "ours:score_guided",
    SDA_FIRST_TOKEN: "ours:first_token",
    SDA_SECOND_QUESTION: "ours:second_question",
    CHAT_SDA: "langchain_chat:chat_sda",
    CHAT_SDA_BATCH: "langchain_chat:chat_sda_batch",
    CHAT_HUGGING_FACE: "langchain_chat:chat_hugging_face",
    SDALLM: "llama_index_chat:sda_llm",
    HUGGING_FACE_LLM: "llama_index_chat:hugging_face_llm",
    GENERATE: "peers:plain",
    GUIDANCE: "peers:guidance",
    PROMPT_LOOKUP: "peers:prompt_lookup",
    PADDED_BATCH: "peers:padded_batch",
    FIRST_TOKEN: "peers:first_token",
    TWO_FORWARDS: "two_forwards:two_forwards",
}


@dataclass(frozen=True)
class Source:
    """The weights that all contenders load: a folder or Hub id, and the name of a dtype."""

    folder: str
    dtype: str


@dataclass(frozen=True)
class Request:
    """A chat, and the instruction that steering adds to its last user turn. Unsteered contenders leave it out."""

    messages: tuple[Message, ...]
    instruction: str


@dataclass(frozen=True)
class Sample:
    """One run of a contender.

    Attributes:
        seconds: from the first request to the last token.
        tokens: decoded tokens of each request.
        base_tokens: tokens of base responses, which nobody reads, of all requests.
    """

    seconds: float
    tokens: tuple[int, ...]
    base_tokens: int = 0


Contender = Callable[[Sequence[Request], Sequence[int]], Sample]


def build(name: str, source: Source) -> Contender:
    """A contender, its model loaded.

    Raises:
        ImportError: a package that it needs is not installed.
    """
    module, function = _BUILDERS[name].split(":")
    contender: Contender = getattr(import_module(module), function)(source)
    return contender


@dataclass
class Stopwatch:
    """Seconds of a `timed` block, after it."""

    seconds: float = 0.0


@contextmanager
def timed() -> Iterator[Stopwatch]:
    """Time a block; what an earlier contender left behind is not this one's to clear away."""
    gc.collect()
    watch = Stopwatch()
    start = time.perf_counter()
    yield watch
    watch.seconds = time.perf_counter() - start


def one_after_the_other(answer: Callable[[Request, int], int]) -> Contender:
    """A contender that answers one request at a time; `answer` returns how many tokens it decoded."""

    def contender(requests: Sequence[Request], tokens: Sequence[int]) -> Sample:
        with timed() as watch:
            decoded = tuple(map(answer, requests, tokens))
        return Sample(watch.seconds, decoded)

    return contender
