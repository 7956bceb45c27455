"""How long a server asks its callers to wait before they try again."""

import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime


def retry_after(error: BaseException | None) -> float | None:
    """Seconds that a server asks its callers to wait, at least 0; None where it says nothing legible."""
    headers = getattr(getattr(error, "response", None), "headers", None)
    if not isinstance(headers, Mapping):
        return None
    for value, unit in ((headers.get("retry-after-ms"), 0.001), (headers.get("retry-after"), 1.0)):
        if value is not None and (seconds := _seconds(value, unit)) is not None:
            return max(0.0, seconds)
    return None


def _seconds(value: str, unit: float) -> float | None:
    try:
        seconds = float(value) * unit
    except ValueError:
        try:
            return parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return None if math.isnan(seconds) else seconds
