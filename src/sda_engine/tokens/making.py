"""The tokenizer of an engine, from a model and what was loaded with it."""

from sda_engine.models import LoadedModel
from sda_engine.pictures import PictureLimits
from sda_engine.tokens.tokenizer import SafeTokenizer


def make_tokenizer(loaded: LoadedModel, limits: PictureLimits | None) -> SafeTokenizer:
    """A tokenizer that renders pictures too, where the model sees and its processor is there.

    Args:
        limits: how many pictures a chat may hold, and how large; None where it may hold none.
    """
    config = loaded.model.config
    image_token_id = getattr(config, "image_token_id", None) if limits is not None else None
    sees = image_token_id is not None or getattr(config, "vision_config", None) is not None
    return SafeTokenizer(
        loaded.facts.tokenizer,
        processor=loaded.facts.processor if image_token_id is not None else None,
        image_token_id=image_token_id,
        pictures=limits if sees else None,
    )
