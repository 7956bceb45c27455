"""Warnings that point at the line of the user's own code, through however many layers of libraries."""

import sys
import sysconfig
import warnings
from types import FrameType

_OWN_PACKAGES = ("sda_engine", "sda_integrations")
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def warn_user(message: str, category: type[Warning]) -> None:
    """Warn at the nearest line outside this project, installed packages and the standard library.

    Where there is none, as in a thread of a framework's, the nearest one outside this project counts.
    """
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
