"""LangChain's chat models: ChatHuggingFace over a transformers pipeline, and our ChatSDA."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from contenders import Contender, Request, Sample, Source, one_after_the_other, timed
from langchain_core.messages import AIMessage

if TYPE_CHECKING:
    from sda_integrations.langchain import ChatSDA

# ChatHuggingFace's process shall not carry our adapter, nor ours a pipeline: each builder imports what it needs


def chat_hugging_face(source: Source) -> Contender:
    """ChatHuggingFace, unsteered: it knows one context."""
    from langchain_huggingface import ChatHuggingFace, HuggingFacePipeline
    from peers import as_text, load_peer
    from transformers import pipeline

    peer = load_peer(source)
    pipe = pipeline("text-generation", model=peer.model, tokenizer=peer.tokenizer, device=peer.model.device)
    chat = ChatHuggingFace(llm=HuggingFacePipeline(pipeline=pipe), tokenizer=peer.tokenizer)

    def answer(request: Request, tokens: int) -> int:
        options = {"max_new_tokens": tokens, "do_sample": False, "return_full_text": False}
        chat.invoke(list(map(dict, as_text(request.messages))), pipeline_kwargs=options)
        return tokens  # it does not tell; the model has no end-of-sequence token

    return one_after_the_other(answer)


def chat_sda(source: Source) -> Contender:
    """ChatSDA, one request after the other."""
    from ours import alignment

    chat = _chat_sda(source)

    def answer(request: Request, tokens: int) -> int:
        return _decoded(chat.invoke(list(map(dict, request.messages)), alignment=alignment(request), max_tokens=tokens))

    return one_after_the_other(answer)


def chat_sda_batch(source: Source) -> Contender:
    """ChatSDA.batch, each request with its own alignment. LangChain would take cores + 4 at a time by default."""
    from ours import alignment

    chat = _chat_sda(source)

    def contender(requests: Sequence[Request], tokens: Sequence[int]) -> Sample:
        with timed() as watch:
            answers = chat.batch(
                [list(map(dict, request.messages)) for request in requests],
                [
                    {"configurable": {"sda_alignment": alignment(request)}, "max_concurrency": len(requests)}
                    for request in requests
                ],
                max_tokens=max(tokens),
            )
        return Sample(watch.seconds, tuple(map(_decoded, answers)))

    return contender


def _chat_sda(source: Source) -> "ChatSDA":
    from ours import STEERING, load_engine

    from sda_integrations.langchain import ChatSDA

    return ChatSDA(engine=load_engine(source), steering=STEERING, temperature=0)


def _decoded(answer: AIMessage) -> int:
    assert answer.usage_metadata is not None
    return answer.usage_metadata["output_tokens"]
