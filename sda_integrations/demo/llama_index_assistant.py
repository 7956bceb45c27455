"""The library's assistant in LlamaIndex: a vector index and its query engine with SDALLM."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from llama_index.core import Document, Settings, VectorStoreIndex
from llama_index.embeddings.huggingface import HuggingFaceEmbedding

from sda_engine import Alignment, SteeringEngine
from sda_integrations.demo.assistants import PASSAGES_PER_QUESTION, AnswerSettings
from sda_integrations.demo.passages import Passage
from sda_integrations.llama_index import SDALLM


class LlamaIndexAssistant:
    """Answers from the passages with LlamaIndex.

    Args:
        engine: decodes the answers.
        settings: how to decode them.
        passages: what the assistant knows.
        embedding_model: folder of a sentence-transformers model.
    """

    name = "LlamaIndex"
    pipeline = "VectorStoreIndex.as_query_engine(llm=SDALLM)"

    def __init__(
        self, engine: SteeringEngine, settings: AnswerSettings, passages: Iterable[Passage], embedding_model: Path
    ) -> None:
        self._engine, self._settings = engine, settings
        Settings.tokenizer = engine.encode  # so that LlamaIndex counts this model's tokens
        documents = [Document(text=f"{passage.title}: {passage.text}") for passage in passages]
        self._index = VectorStoreIndex.from_documents(
            documents, embed_model=HuggingFaceEmbedding(model_name=str(embedding_model))
        )

    def find(self, question: str) -> Sequence[str]:
        """The passages that fit the question, best first."""
        retriever = self._index.as_retriever(similarity_top_k=PASSAGES_PER_QUESTION)
        return [node.text for node in retriever.retrieve(question)]

    def answer(self, question: str, alignment: Alignment | None) -> str:
        """Find passages, and answer from them."""
        sampling = self._settings.sampling
        llm = SDALLM(
            engine=self._engine,
            alignment=alignment,
            steering=self._settings.steering.fitting(alignment),
            temperature=sampling.temperature,
            max_tokens=sampling.max_new_tokens,
            seed=sampling.seed,
        )
        query_engine = self._index.as_query_engine(llm=llm, similarity_top_k=PASSAGES_PER_QUESTION)
        return str(query_engine.query(question))
