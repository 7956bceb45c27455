"""The tokenizer of an engine, from a model and what was loaded with it."""

from sda_engine.models import LoadedModel
from sda_engine.tokens.tokenizer import READS_TEXT_ONLY, SafeTokenizer

_NO_PROCESSOR = (
    "this model was loaded without its processor, which turns pictures into its inputs. Where the model has one, the "
    "log says why it could not be loaded; a model in memory takes SteeringEngine(..., processor=...)"
)


def make_tokenizer(loaded: LoadedModel) -> SafeTokenizer:
    """A tokenizer that renders pictures too, where the model sees and its processor is there."""
    config = loaded.model.config
    sees = getattr(config, "vision_config", None) is not None
    image_token_id = getattr(config, "image_token_id", None)
    return SafeTokenizer(
        loaded.facts.tokenizer,
        processor=loaded.facts.processor if image_token_id is not None else None,
        image_token_id=image_token_id,
        why_blind=_NO_PROCESSOR if sees else READS_TEXT_ONLY,
    )
