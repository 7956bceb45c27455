"""The Hub, asked once before transformers asks."""

from huggingface_hub import HfApi, try_to_load_from_cache

_SECONDS = 10


def check_hub(model: str, revision: str | None) -> None:
    """Ask the Hub once for a model that is not cached: transformers asks for three quarters of a minute.

    Raises:
        OSError, ValueError, httpx.HTTPError: there is no such model, or no way to reach the Hub.
    """
    if try_to_load_from_cache(model, "config.json", revision=revision) is None:
        HfApi().model_info(model, revision=revision, timeout=_SECONDS)
