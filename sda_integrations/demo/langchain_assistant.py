"""The library's assistant in LangChain: a retriever, a prompt and ChatSDA in one chain."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_huggingface import HuggingFaceEmbeddings

from sda_engine import Alignment, SteeringEngine
from sda_integrations.demo.assistants import PASSAGES_PER_QUESTION, AnswerSettings
from sda_integrations.demo.passages import Passage
from sda_integrations.langchain import ChatSDA

_PROMPT = ChatPromptTemplate.from_messages(
    [
        ("system", "You answer visitors of a library. Use these house rules:\n\n{rules}"),
        ("human", "{question} Answer in two sentences."),
    ]
)


class LangChainAssistant:
    """Answers from the passages with LangChain.

    Args:
        engine: decodes the answers.
        settings: how to decode them.
        passages: what the assistant knows.
        embedding_model: folder of a sentence-transformers model.
    """

    name = "LangChain"
    pipeline = "retriever | prompt | ChatSDA | StrOutputParser"

    def __init__(
        self, engine: SteeringEngine, settings: AnswerSettings, passages: Iterable[Passage], embedding_model: Path
    ) -> None:
        self._engine, self._settings = engine, settings
        store = InMemoryVectorStore(HuggingFaceEmbeddings(model=str(embedding_model)))
        store.add_documents([Document(f"{passage.title}: {passage.text}") for passage in passages])
        self._retriever = store.as_retriever(search_kwargs={"k": PASSAGES_PER_QUESTION})

    def find(self, question: str) -> Sequence[str]:
        """The passages that fit the question, best first."""
        return [document.page_content for document in self._retriever.invoke(question)]

    def answer(self, question: str, alignment: Alignment | None) -> str:
        """Find passages, and answer from them."""
        sampling = self._settings.sampling
        chat = ChatSDA(
            engine=self._engine,
            alignment=alignment,
            steering=self._settings.steering.fitting(alignment),
            temperature=sampling.temperature,
            max_tokens=sampling.max_new_tokens,
            seed=sampling.seed,
        )
        rules = self._retriever | (lambda documents: "\n\n".join(document.page_content for document in documents))
        chain = {"rules": rules, "question": RunnablePassthrough()} | _PROMPT | chat | StrOutputParser()
        return chain.invoke(question)
