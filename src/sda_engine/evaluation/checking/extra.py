"""Errors that name the extra which the packages behind some checks come with."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def evaluate_extra() -> Iterator[None]:
    """Around the import of a package of the extra "evaluate".

    Raises:
        ImportError: it is not installed; the message names the extra.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(f"This check needs {error.name}: pip install 'sda-integrations[evaluate]'") from error
