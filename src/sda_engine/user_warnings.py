"""Warnings that point at the line of the user's own code, through however many layers of libraries."""

import sys
import sysconfig
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType

_OWN_PACKAGES = ("sda_engine", "sda_integrations")
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_nobody_listens: ContextVar[bool] = ContextVar("nobody_listens", default=False)


@contextmanager
def without_user_warnings() -> Iterator[None]:
    """Around what is done for somebody who sees no warnings, such as the client of a server: nothing warns.

    Python keeps the text of each warning for ever, and there is no end of what strangers may write.
    """
    token = _nobody_listens.set(True)
    try:
        yield
    finally:
        _nobody_listens.reset(token)


def warn_user(message: str, category: type[Warning]) -> None:
    """Warn at the nearest line outside this project, installed packages and the standard library.

    Where there is none, as in a thread of a framework's, the nearest one outside this project counts.
    """
    if _nobody_listens.get():
        return
    frame: FrameType | None = sys._getframe(1)
    levels = outside = 1
    while frame is not None:
        levels += 1
        name = str(frame.f_globals.get("__name__", ""))
        if name.partition(".")[0] not in _OWN_PACKAGES:
            outside = levels if outside == 1 else outside
            if not frame.f_code.co_filename.startswith((*_LIBRARIES, "<frozen")):
                break
        frame = frame.f_back
    else:
        levels = outside
    warnings.warn(message, category, stacklevel=levels)
