"""How much the tests of endurance do: enough to see a fault, or all that is promised (`make endurance`)."""

import os

ALL = os.environ.get("SDA_ENDURANCE", "") != ""


def size(promised: int, quick: int) -> int:
    """How often: as promised where everything is asked for, else a number that passes every cap and takes seconds."""
    return promised if ALL else quick
