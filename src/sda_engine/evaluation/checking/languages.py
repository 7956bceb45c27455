"""Which language a text is written in, by langdetect, always with the same answer."""

from functools import cache
from typing import TYPE_CHECKING

from sda_engine.evaluation.extras import evaluate_extra

if TYPE_CHECKING:
    from langdetect.detector_factory import DetectorFactory

_SEED = 0


def language_of(text: str) -> str | None:
    """The code of a text's language, such as "en" or "zh-cn"; None where there is too little to tell it by.

    Source: langdetect, the detector of IFEval. It draws at random; here it does so from the same seed every time.

    Raises:
        ImportError: langdetect is not installed.
    """
    with evaluate_extra():
        from langdetect import LangDetectException
    detector = _factory().create()
    detector.append(text)
    try:
        code = str(detector.detect())
    except LangDetectException:
        return None
    return None if code == detector.UNKNOWN_LANG else code


@cache
def _factory() -> "DetectorFactory":
    """Our own one, so that the seed of langdetect's global one stays what its other users made it."""
    from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory

    factory = DetectorFactory()
    factory.load_profile(PROFILES_DIRECTORY)
    factory.set_seed(_SEED)
    return factory
