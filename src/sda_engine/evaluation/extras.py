"""Errors that name the extra which the packages behind measures and checks come with."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager


def report_extra() -> AbstractContextManager[None]:
    """Around the import of a package of the extra "report".

    Raises:
        ImportError: it is not installed; the message names the extra.
    """
    return _extra("report", "Reports on evaluators need")


def evaluate_extra() -> AbstractContextManager[None]:
    """Around the import of a package of the extra "evaluate".

    Raises:
        ImportError: it is not installed; the message names the extra.
    """
    return _extra("evaluate", "This check needs")


@contextmanager
def _extra(name: str, who_needs: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{who_needs} {error.name}: pip install 'sda-integrations[{name}]'") from error
