"""The processor of a model that sees: what turns pictures and text into the model's inputs."""

import logging
from textwrap import shorten
from typing import TypeVar, cast

from transformers import (
    PROCESSOR_MAPPING,
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    ProcessorMixin,
)
from transformers.utils.import_utils import is_torchvision_available

from sda_engine.models.auto_classes import sees_pictures

logger = logging.getLogger(__name__)

_VIDEO = "video_processor"
_Processor = TypeVar("_Processor", bound=type[ProcessorMixin])


def load_processor(source: str, revision: str | None, config: PreTrainedConfig) -> ProcessorMixin | None:
    """The processor that lies beside a model's files; None where there is none, or it cannot be loaded.

    Without it the model takes text alone, and the log says why. Without torchvision, which processes videos, those that
    know pictures and videos are loaded for pictures alone.

    Args:
        source: a folder, or a Hub id.
        revision: of a Hub model.
        config: of the model.
    """
    if not sees_pictures(config):
        return None
    try:
        processor = _load(source, revision, config)
    except Exception as error:  # noqa: BLE001 - a stranger's files, or a package that is missing: text works all the same
        reason = shorten(str(error) or type(error).__name__, 200)
        logger.warning("The model %r takes text alone here: its processor cannot be loaded (%s).", source, reason)
        return None
    if isinstance(processor, ProcessorMixin):
        return processor
    logger.warning("The model %r takes text alone here: there is no processor for pictures beside its files.", source)
    return None


def _load(source: str, revision: str | None, config: PreTrainedConfig) -> object:
    known = cast(type[ProcessorMixin] | None, PROCESSOR_MAPPING.get(type(config), None))
    parts = [] if known is None else cast(list[str], known.get_attributes())  # type: ignore[no-untyped-call]
    if known is None or is_torchvision_available() or _VIDEO not in parts:
        return AutoProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            source, revision=revision, trust_remote_code=False
        )
    pictures = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
        source, revision=revision, trust_remote_code=False
    )
    tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
    loaded = {"image_processor": pictures, "tokenizer": tokenizer}
    without = _without_videos(known)
    settings, _ = without.get_processor_dict(source, revision=revision)
    return without.from_args_and_dict([loaded.get(part) for part in parts], settings)


def _without_videos(processor_class: _Processor) -> _Processor:
    """The class with None for what processes videos."""

    class PicturesAlone(processor_class):  # type: ignore[misc,valid-type]
        def check_argument_for_proper_class(self, argument_name: str, argument: object) -> type:
            if argument_name == _VIDEO and argument is None:
                return type(None)
            proper: type = super().check_argument_for_proper_class(argument_name, argument)
            return proper

    PicturesAlone.__name__ = processor_class.__name__  # which some methods look at
    return cast(_Processor, PicturesAlone)
