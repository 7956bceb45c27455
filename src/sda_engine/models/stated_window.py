"""How many tokens the engine decodes with a model, which can be fewer than the model states."""

from dataclasses import dataclass

from transformers import PreTrainedConfig

from sda_engine.user_warnings import warn_user

_NAMES = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")


class ContextWindowWarning(UserWarning):
    """A model is decoded within a shorter context window than it states."""


@dataclass(frozen=True)
class ContextWindow:
    """The tokens that a model can attend to, prompt and answer together.

    Attributes:
        tokens: as many as the engine uses.
        stated: as many as the model states.
        reason: why these are fewer; None where they are not.
    """

    tokens: int
    stated: int
    reason: str | None = None


def context_window(config: PreTrainedConfig, tokenizer_length: int) -> ContextWindow:
    """The window that a model's configuration states, or its tokenizer does where that states none.

    Args:
        config: of the whole model; no weights are needed.
        tokenizer_length: the tokenizer's `model_max_length`.
    """
    config = config.get_text_config(decoder=True)
    limits = (getattr(config, name, None) for name in _NAMES)
    stated = next((limit for limit in limits if isinstance(limit, int)), int(tokenizer_length))
    cuts = [(tokens, why) for tokens, why in (_longrope_window(config), _indexed_window(config)) if tokens is not None]
    tokens, why = min(cuts, default=(stated, ""))
    return ContextWindow(tokens, stated, why) if tokens < stated else ContextWindow(stated, stated)


def _longrope_window(config: PreTrainedConfig) -> tuple[int | None, str]:
    """Where a model's rotary frequencies change for the whole text (Phi 3); rows of one pass must stay on one side."""
    parameters = getattr(config, "rope_parameters", None) or {}
    if parameters.get("rope_type") != "longrope":
        return None, ""
    window = parameters.get("original_max_position_embeddings")
    tokens = window if isinstance(window, int) else getattr(config, "original_max_position_embeddings", None)
    return tokens, (
        f"its positions are scaled by other factors in texts above {tokens} tokens than in those below (longrope), and "
        f"rows that share a forward pass must all stay on one side"
    )


def _indexed_window(config: PreTrainedConfig) -> tuple[int | None, str]:
    """Where a model begins to choose which tokens it attends to (DeepSeek V3.2); before, it attends to all of them."""
    if "indexed_attention" not in (getattr(config, "layer_types", None) or ()):
        return None, ""
    tokens = getattr(config, "index_topk", None)
    return tokens, (
        f"in texts above {tokens} tokens it attends to those alone that an index chooses (indexed attention), and the "
        f"index cannot tell rows apart that share a forward pass"
    )


def explain_cut(window: ContextWindow) -> str | None:
    """Why a window is shorter than the model states; None where it is not."""
    return window.reason


def warn_of_cut(model: str, window: ContextWindow) -> None:
    """Say it once where a model is loaded that could read more than the engine lets it."""
    if reason := explain_cut(window):
        warn_user(
            f"The context window of {model!r} is {window.tokens} tokens here, not the {window.stated} that the model "
            f"states: {reason}. Longer prompts are refused. Where you need them, choose another "
            f"model.",
            ContextWindowWarning,
        )
