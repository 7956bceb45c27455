"""The cases of speed.py: which requests, and who competes.

Every request begins with a mark of its own, a few words behind what the chat template puts first, so that no contender
has seen more than that of its prompt before. What a case asks twice, it asks on purpose.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics  # long, varied text that every Python brings along

from contenders import (
    CHAT_HUGGING_FACE,
    CHAT_SDA,
    CHAT_SDA_BATCH,
    FIRST_TOKEN,
    GENERATE,
    GUIDANCE,
    HUGGING_FACE_LLM,
    PADDED_BATCH,
    PROMPT_LOOKUP,
    SDA,
    SDA_FIRST_TOKEN,
    SDA_SCORED,
    SDA_SECOND_QUESTION,
    SDA_TOGETHER,
    SDALLM,
    TWO_FORWARDS,
    Message,
    Request,
)

DIALOGUES = Path(__file__).resolve().parents[2] / "shared" / "data" / "dialogsum.jsonl"
OWN_DIALOGUE = """\
#Person1#: Good morning, this is the lending desk. How can I help you?
#Person2#: Hello. I borrowed three atlases in March, and I can only find two of them.
#Person1#: That happens. Which one is missing?
#Person2#: The one with the sea charts. I think I left it on the ferry to the island.
#Person1#: Have you asked the ferry company? They keep what people leave behind for a month.
#Person2#: I called twice, but nobody answered. I can go there on Thursday.
#Person1#: Then I will extend the loan until Monday. If it does not turn up, we have to charge you for it.
#Person2#: How much would that be?
#Person1#: Forty pounds, but half of it is paid back if you find the atlas within a year.
#Person2#: That is fair. Thank you, I will let you know on Thursday evening."""
KINDNESS = "Reply with warmth and understanding."
HONESTY = "Answer truthfully, and say openly what is uncertain or unknown."
SUMMARY = "Summarise this faithfully in a few short sentences."
PASSAGES = (
    "with",
    "try",
    "raise",
    "exceptions",
    "for",
    "function",
    "class",
    "import",
    "yield",
    "del",
    "global",
    "assert",
)
QUESTIONS = (
    "How does a with statement handle an exception? Explain it step by step, with an example.",
    "What is a finally clause good for? Explain it step by step, with an example.",
)
AGENT_TURNS = 6
AGENT = """You are an agent that answers questions about Python from its reference manual. You work step by step: \
you look a topic up, read what comes back, and say what you have found so far and what is still open. \
Look a topic up by writing <tool_call>{"name": "look_up", "arguments": {"topic": "..."}}</tool_call>. \
The topics are: with, try, raise, exceptions, for, function, class, import, yield. \
Quote the manual where its wording matters, and say so where it does not answer the question."""

Cutter = Callable[[str, int], str]  # a text, and of how many tokens its beginning is wanted
Requests = Callable[[str, Cutter], tuple[Request, ...]]


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        title: how the table calls it.
        requests: the requests of one run, after the run's mark.
        ours: whom the others are compared with. It runs first, and its peers decode as many tokens.
        contenders: all others.
        plain: what the plot calls 1.
        most_tokens: new tokens per request at most, whatever the command line says.
        first_token: whether the time to the first token is measured, in place of tokens per second.
    """

    title: str
    requests: Requests
    ours: str
    contenders: tuple[str, ...]
    plain: str = GENERATE
    most_tokens: int = 1_000_000
    first_token: bool = False


def short_chat(mark: str, cut: Cutter) -> tuple[Request, ...]:
    """One question that a long answer follows."""
    text = (
        f"Ticket {mark}. I lost my keys somewhere between the office and the train station, and I am very upset. "
        f"Write me a long letter with everything that I should do now."
    )
    return (_ask(text, KINDNESS),)


def summaries(mark: str, cut: Cutter) -> tuple[Request, ...]:
    """Three dialogues to summarise."""
    return tuple(
        _ask(f"This is call {mark}-{place}.\n\n{dialogue}\n\nWrite a summary of this dialogue.", SUMMARY)
        for place, dialogue in enumerate(dialogues(3))
    )


def dialogues(count: int) -> list[str]:
    """The first long dialogues of the data beside the checkout; our own one where there is no such data."""
    if not DIALOGUES.is_file():
        return [OWN_DIALOGUE] * count
    rows = (json.loads(line)["dialogue"] for line in DIALOGUES.read_text().splitlines())
    return [dialogue for dialogue in rows if len(dialogue) > len(OWN_DIALOGUE)][:count]


def rag(tokens: int, *, questions: int = 1) -> Requests:
    """Questions on one retrieved context, each a chat of its own with about so many prompt tokens."""

    def requests(mark: str, cut: Cutter) -> tuple[Request, ...]:
        manual = cut("\n\n".join(topics[name] for name in PASSAGES), tokens - 70)
        return tuple(
            _ask(f"Document {mark}\n\n{manual}\n\nQuestion: {question}", HONESTY) for question in QUESTIONS[:questions]
        )

    return requests


def agent_loop(mark: str, cut: Cutter) -> tuple[Request, ...]:
    """A chat that grows by a tool call and its result from one request to the next."""
    messages: list[Message] = [
        {"role": "system", "content": f"Session {mark}. {AGENT}"},
        {"role": "user", "content": "How do with statements, exceptions and generators work together?"},
    ]
    requests = []
    for name in PASSAGES[:AGENT_TURNS]:
        call = {"type": "function", "id": name, "function": {"name": "look_up", "arguments": {"topic": name}}}
        messages += [
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": name, "content": cut(topics[name], 100)},
        ]
        requests.append(Request(tuple(messages), HONESTY))
    return tuple(requests)


def eight_mixed(mark: str, cut: Cutter) -> tuple[Request, ...]:
    """Four short chats, two summaries and two RAG prompts, as they might arrive."""
    chats = [request for place in range(4) for request in short_chat(f"{mark}-{place}", cut)]
    long = [request for place in range(2) for request in rag(600)(f"{mark}-{place}", cut)]
    sums = summaries(mark, cut)
    return (chats[0], long[0], chats[1], sums[0], chats[2], long[1], sums[1], chats[3])


def _ask(text: str, instruction: str) -> Request:
    return Request(({"role": "user", "content": text},), instruction)


PEERS = (GENERATE, GUIDANCE, PROMPT_LOOKUP, TWO_FORWARDS, CHAT_HUGGING_FACE, HUGGING_FACE_LLM)
CASES: Mapping[str, Case] = {
    "chat": Case("short chat", short_chat, SDA, (CHAT_SDA, SDALLM, *PEERS)),
    "summary": Case("dialogue summaries", summaries, SDA, (CHAT_SDA, SDALLM, *PEERS)),
    "rag": Case("RAG, 1,500 tokens", rag(1500), SDA, (CHAT_SDA, SDALLM, *PEERS)),
    "first-token": Case(
        "first token, RAG, 1,500 tokens",
        rag(1500, questions=2),
        SDA_FIRST_TOKEN,
        (SDA_SECOND_QUESTION, FIRST_TOKEN),
        plain=FIRST_TOKEN,
        first_token=True,
    ),
    "agent": Case(f"agent loop of {AGENT_TURNS} turns", agent_loop, SDA, PEERS, most_tokens=24),
    "eight": Case(
        "eight mixed requests",
        eight_mixed,
        SDA_TOGETHER,
        (CHAT_SDA_BATCH, SDA, GENERATE, GUIDANCE, CHAT_HUGGING_FACE, PADDED_BATCH),
    ),
    "score": Case("score-guided answer", short_chat, SDA_SCORED, (SDA, GENERATE)),
}
