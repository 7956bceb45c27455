"""Progress of the demo, for people who watch and for logs."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text


@contextmanager
def step(console: Console, title: str) -> Iterator[Callable[[str], None]]:
    """Show that a step is under way, and a line with the seconds it took when it is done.

    Yields a function that shows how far it has come. Where the console is no terminal, there is only the line.
    """
    start = time.perf_counter()
    detail = ""

    def tell(news: str) -> None:
        nonlocal detail
        detail = f", {news}"
        status.update(f"{title} ... {news}")

    with console.status(f"{title} ...") as status:
        yield tell
    console.print(Text(f"{title} ({time.perf_counter() - start:.1f} s{detail})", style="dim"))
