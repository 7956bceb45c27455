"""What a command shows, and how it ends: consoles, errors, warnings, log messages. Imports nothing heavy."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import typer
from rich import box
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.status import Status
from rich.table import Table
from rich.text import Text

from sda_engine.errors import ConfigError, SDAError

_PICTURES = (".svg", ".png", ".pdf")
PLAIN_WIDTH = 120  # columns for files and pipes, which have no width of their own


def output_console() -> Console:
    """Where results go: standard output."""
    return _console(sys.stdout, stderr=False)


def error_console() -> Console:
    """Where everything else goes: progress, figures, messages."""
    return _console(sys.stderr, stderr=True)


def _console(stream: TextIO, *, stderr: bool) -> Console:
    known_width = stream.isatty() or "COLUMNS" in os.environ
    return Console(stderr=stderr, width=None if known_width else PLAIN_WIDTH, highlight=False, markup=False)


def tell(console: Console, message: Text) -> None:
    """Print a message: between words wrapped on a terminal, in one line elsewhere."""
    console.print(message, soft_wrap=not console.is_terminal)


@contextmanager
def session(*, debug: bool) -> Iterator[None]:
    """Around a command: its errors become one line and exit code 2, an interrupt exit code 130.

    Warnings and log messages become readable lines: SDA's own only, unless `debug` asks for everything. It also
    lets errors through as tracebacks.
    """
    console = error_console()
    try:
        with _log_to(console, debug=debug), _warn_on(console, debug=debug):
            yield
    except SDAError as error:
        if debug:
            raise
        tell(console, Text.assemble(("Error: ", "bold red"), str(error)))
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        console.print()  # the shell's prompt goes on a line of its own
        raise typer.Exit(130) from None


def starting() -> Status:
    """A status line for the seconds that the first import of torch takes."""
    return error_console().status("Starting ...")


@contextmanager
def _log_to(console: Console, *, debug: bool) -> Iterator[None]:
    handler = RichHandler(console=console, show_time=debug, show_level=debug, show_path=debug)
    logger = logging.getLogger("" if debug else "sda_engine")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def _warn_on(console: Console, *, debug: bool) -> Iterator[None]:
    shown = set()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        known = str(message) in shown
        shown.add(str(message))
        if debug or (category.__module__.startswith("sda_") and not known):
            where = f" ({category.__name__}, {filename}:{lineno})" if debug else ""
            tell(console, Text.assemble(("Note: ", "bold yellow"), f"{message}{where}"))

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def check_page(path: Path) -> None:
    """Find out before a long computation that its page has no place to go.

    Raises:
        ConfigError: the folder does not exist, or the path is a folder.
    """
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ConfigError(f"The trace cannot be written to {path}: it must be a file in a folder that exists.")


def write_page(path: Path, page: str) -> None:
    """Write an HTML page.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"The trace cannot be written to {path}: {error.strerror}. Choose another file.") from error


def check_picture(path: Path) -> None:
    """Check before a long computation that a picture can be written.

    Raises:
        ConfigError: the path is no picture in a folder that exists.
    """
    if path.suffix.lower() not in _PICTURES or path.is_dir() or not path.absolute().parent.is_dir():
        raise ConfigError(
            f"The plot cannot be written to {path}: it must be a file ending in {', '.join(_PICTURES)}, in a folder "
            f"that exists."
        )


@contextmanager
def counting(console: Console, what: str, total: int) -> Iterator[Callable[[], None]]:
    """Around long work: a bar with what is done; the function that it gives counts one more."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=total)
        yield lambda: progress.advance(bar)


def figures_table(title: str) -> Table:
    """An empty table of figures, as all commands show them."""
    return Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", padding=(0, 1))
