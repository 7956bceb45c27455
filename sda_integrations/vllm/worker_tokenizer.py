"""The tokenizer of the model in vLLM's workers, where steering may act in parts of an answer that its text tells."""

from typing import Any

from transformers import AutoTokenizer

from sda_engine.tokens import SafeTokenizer, TokenCategories


def load_tokenizer(name: str, revision: str | None, config: Any) -> tuple[SafeTokenizer, TokenCategories]:
    """The tokenizer, and the categories of its tokens.

    Args:
        name: a folder or Hub id.
        config: of the model, as transformers has it.
    """
    tokenizer = SafeTokenizer(AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False))
    return tokenizer, TokenCategories(tokenizer, config.get_text_config(decoder=True).vocab_size)
