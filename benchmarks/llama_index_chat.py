"""LlamaIndex's LLMs: HuggingFaceLLM, and our SDALLM."""

from collections.abc import Sequence

from contenders import Contender, Message, Request, Source, one_after_the_other
from llama_index.core.llms import ChatMessage

# HuggingFaceLLM's process shall not carry our adapter, nor ours HuggingFaceLLM: each builder imports what it needs


def hugging_face_llm(source: Source) -> Contender:
    """HuggingFaceLLM, unsteered: it knows one context."""
    from llama_index.llms.huggingface import HuggingFaceLLM
    from peers import as_text, load_peer

    peer = load_peer(source)
    llm = HuggingFaceLLM(
        model=peer.model,
        tokenizer=peer.tokenizer,
        context_window=peer.model.config.max_position_embeddings,
        generate_kwargs={"do_sample": False},
    )

    def answer(request: Request, tokens: int) -> int:
        llm.max_new_tokens = tokens
        llm.chat(chat_messages(as_text(request.messages)))
        return tokens  # the model has no end-of-sequence token

    return one_after_the_other(answer)


def sda_llm(source: Source) -> Contender:
    """SDALLM, one request after the other."""
    from ours import STEERING, alignment, load_engine

    from sda_integrations.llama_index import SDALLM

    llm = SDALLM(engine=load_engine(source), steering=STEERING, temperature=0)

    def answer(request: Request, tokens: int) -> int:
        done = llm.chat(chat_messages(request.messages), alignment=alignment(request), max_tokens=tokens)
        return int(done.raw["usage"]["completion_tokens"])

    return one_after_the_other(answer)


def chat_messages(messages: Sequence[Message]) -> list[ChatMessage]:
    """The messages as LlamaIndex has them."""
    return [ChatMessage(role=str(message["role"]), content=str(message["content"])) for message in messages]
