"""The words that a fast tokenizer has met, and whose tokens it remembers."""

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast


class KnownWords:
    """Keeps what a tokenizer remembers to the requests of one salt. One thread at a time.

    A word that was met before is encoded some microseconds sooner, which adds up to a millisecond for a text of
    hundreds: by that somebody could tell the words of others. Salts that take turns make it remember less, and one
    alone loses nothing.

    Args:
        tokenizer: the engine's own copy. One that is not fast remembers nothing.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._salt: bytes | None = None

    def forget_others(self, salt: bytes | None) -> None:
        """Before a text of a salt is encoded: forget the words in texts of another one."""
        if salt == self._salt:
            return
        self._salt = salt
        if isinstance(self._tokenizer, PreTrainedTokenizerFast):
            # only models that join pieces have such a memory; tokenizers offers no other way to it
            clear = getattr(self._tokenizer.backend_tokenizer.model, "_clear_cache", None)
            if clear is not None:
                clear()
