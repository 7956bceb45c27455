"""What the demo prints."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from sda_engine import Alignment, Completion, SteeringEngine
from sda_engine.cli.views import describe_figures
from sda_integrations.demo.assistants import Assistant


@dataclass(frozen=True)
class Answers:
    """What one framework answered.

    Attributes:
        passages: what it found for the question.
        plain: the model's own answer.
        steered: the answer under the alignment.
    """

    assistant: Assistant
    passages: Sequence[str]
    plain: Completion
    steered: Completion


def show_introduction(console: Console, question: str, alignment: Alignment, engine: SteeringEngine) -> None:
    """What is asked, of whom, and how the answers are to be."""
    lines = Table.grid(padding=(0, 2))
    lines.add_column(style="bold", no_wrap=True)
    lines.add_column()
    lines.add_row("Question", Text(question))
    lines.add_row("Alignment", Text.assemble((alignment.name, "bold cyan"), "\n" + "\n".join(alignment.instructions)))
    lines.add_row("Model", Text(f"{engine.name}, loaded once for both frameworks"))
    console.print()
    console.print(Panel(lines, title="The library's assistant", box=box.ROUNDED))


def show_answers(console: Console, answers: Answers, alignment: Alignment) -> None:
    """The passages that a framework found, and its answers side by side."""
    assistant = answers.assistant
    console.print()
    console.print(Text.assemble((assistant.name, "bold"), f"   {assistant.pipeline}"))
    found = Table.grid(padding=(0, 1, 0, 2))
    for passage in answers.passages:
        found.add_row("found", Text(passage), style="dim")
    console.print(found)
    table = Table(box=box.ROUNDED, expand=True, show_footer=True, footer_style="dim")
    steered = Text(f"Steered: {alignment.name}", style="bold cyan")
    for title, completion in ((Text("Plain"), answers.plain), (steered, answers.steered)):
        table.add_column(title, Text(describe_figures(completion)), ratio=1)
    table.add_row(Text(answers.plain.text.strip()), Text(answers.steered.text.strip()))
    console.print(table)


def show_end(console: Console, framework: str, trace_file: Path) -> None:
    """Where to look further, and what not to expect."""
    console.print()
    console.print(
        "Steering changes how the model answers, not what it knows: check the answers against what was found. A very "
        "small model gets facts wrong.",
        style="dim",
    )
    console.print(Text.assemble(f"Trace of {framework}'s steered answer: ", (str(trace_file), "bold")), soft_wrap=True)
