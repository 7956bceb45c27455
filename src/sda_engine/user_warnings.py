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

_nobody_listens: ContextVar[bool] = ContextVar("whether the code runs for somebody who sees no warnings", default=False)


@contextmanager
def nobody_listens() -> Iterator[None]:
    """Around work for somebody who is not in this process: `warn_user` says nothing in it, nor in what it calls.

    It holds for the thread, task or `asyncio.to_thread` that does the work, and for no other: the filters of `warnings`
    are those of the whole process, and stay as they are.
    """
    before = _nobody_listens.set(True)
    try:
        yield
    finally:
        _nobody_listens.reset(before)


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
