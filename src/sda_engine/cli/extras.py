"""Whether what a command needs is installed. Imports nothing heavy."""

import importlib.util
from collections.abc import Iterable

from sda_engine.errors import SDAError


def check_installed(who_needs: str, modules: Iterable[str], extra: str) -> None:
    """Check before the work begins that an extra is installed.

    Args:
        who_needs: begins the error, e.g. "The demo needs".
        modules: what it brings, by the names to import.
        extra: its name.

    Raises:
        SDAError: it is not installed, or not wholly.
    """
    missing = [module for module in modules if not _is_installed(module)]
    if missing:
        raise SDAError(
            f"{who_needs} {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed. Install "
            f"with: pip install 'sda-integrations[{extra}]'"
        )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False
