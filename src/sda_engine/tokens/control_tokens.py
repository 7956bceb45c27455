"""Control tokens in what users write."""

from collections.abc import Iterator, Mapping, Sequence

from sda_engine.errors import MessageError


class ControlTokens:
    """The texts that a tokenizer may take for a token that is no ordinary text.

    Args:
        tokens: their texts.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = tuple(tokens)
        self._visible = tuple(token for token in tokens if not token.isspace())

    def refuse_in_keys(self, value: object) -> None:
        """transformers marks control tokens in values, but not in keys, which a template writes out as well.

        Raises:
            MessageError: there is one in a key.
        """
        waiting = [value]
        while waiting:
            node = waiting.pop()
            if isinstance(node, Mapping):
                for key in node:
                    if found := next((token for token in self._tokens if token in str(key)), None):
                        raise MessageError(
                            f"The key {key!r} in a tool or a tool call holds the control token {found!r}: rename it."
                        )
                waiting += node.values()
            elif isinstance(node, (list, tuple)):
                waiting += node

    def refuse_in_pieces(self, texts: Sequence[str]) -> None:
        """A template may write the texts before and behind a picture without anything between them.

        Raises:
            MessageError: they make a token together.
        """
        whole = "".join(texts)
        for token in self._visible:
            if whole.count(token) > sum(text.count(token) for text in texts):
                raise MessageError(
                    f"The texts before and behind a picture make the control token {token!r} together: write something "
                    f"between them."
                )

    def are_in(self, value: object) -> bool:
        """Whether there is one in any text of a value, white space aside."""
        return any(token in text for text in _texts(value) for token in self._visible)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _texts(one)
