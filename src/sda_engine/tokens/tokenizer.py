"""A tokenizer that threads can share, and that user text cannot trick into writing control tokens.

A transformers tokenizer is not thread-safe: sanitising, truncation and special-token handling are switched on the
shared object, and concurrent calls silently give wrong ids. The engine therefore keeps private copies behind
locks, and leaves the user's own tokenizer alone. One renders and encodes, and one decodes, so that the text of running
answers does not wait for a long prompt.
"""

import copy
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Self, cast

from transformers import AddedToken, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sda_engine.errors import MessageError
from sda_engine.forks import make_lock
from sda_engine.models import (
    TemplateValue,
    TurnRules,
    check_template_names,
    check_template_values,
    find_turn_rules,
    template_variables,
)
from sda_engine.pictures import PictureLimits
from sda_engine.tokens.answer_format import make_answer_format

PLAIN_TEMPLATE = (
    "{% if begins_with_bos %}{{ bos_token }}{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}\n\n"
    "{% elif message['role'] == 'assistant' %}Assistant: {{ message['content'] }}\n\n"
    "{% else %}User: {{ message['content'] }}\n\n"
    "{% endif %}{% endfor %}"
    "Assistant:"
)
PLAIN_TEMPLATE_STOP = ("\nUser:",)


class SafeTokenizer:
    """Renders, encodes and decodes from any thread.

    A model without a chat template gets the plain one: system text as a paragraph of its own, then "User: " and
    "Assistant: " paragraphs, ending in "Assistant:" for the model to go on. Its turns are ordinary text, so user
    text can imitate them; control tokens it can not produce there either.

    Attributes:
        chat_template: the model's own, or None.
        answer_format: how the model writes tool calls and thoughts.
        special_tokens: text -> id of every token that is not ordinary text.
        template_variables: what `with_template_kwargs` may set.
        pictures: how many pictures a chat may hold, and how large; None where the model reads text only.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, pictures: PictureLimits | None = None) -> None:
        self.pictures = pictures
        self._tokenizer = copy.deepcopy(tokenizer)
        self._lock = make_lock()
        self._decoder = copy.deepcopy(tokenizer)
        self._decoder_lock = make_lock()
        self.chat_template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None
        if isinstance(tokenizer.chat_template, dict):
            self.chat_template = tokenizer.chat_template.get("default")
        with self._lock:
            first = self._tokenizer("x", add_special_tokens=True)["input_ids"][:1]
            added = self._tokenizer.added_tokens_decoder
        template = str(tokenizer.chat_template or "")
        self.special_tokens = {token.content: token_id for token_id, token in added.items() if token.special}
        self._special_ids = frozenset(self.special_tokens.values())
        self._control_tokens = tuple(token.content for token in added.values())
        self._text_markers = tuple(
            token.content
            for token in added.values()
            if not token.special and not token.content.isspace() and (_is_marker(token) or token.content in template)
        )
        shipped = tokenizer.response_template if isinstance(tokenizer.response_template, dict) else None
        markers = {token.content: token_id for token_id, token in added.items() if _is_marker(token)}
        self.answer_format = make_answer_format(self.chat_template or "", shipped, markers)
        self._begins_with_bos = tokenizer.bos_token_id is not None and list(first) == [tokenizer.bos_token_id]
        self.template_variables = template_variables(tokenizer)
        self._template_kwargs: Mapping[str, TemplateValue] = {}
        self._turn_rules: dict[str, TurnRules] = {}  # by template

    @property
    def is_plain(self) -> bool:
        """Whether the plain template stands in for a missing chat template."""
        return self.chat_template is None

    def with_template_kwargs(self, template_kwargs: Mapping[str, TemplateValue]) -> Self:
        """This tokenizer with values for variables of its chat template; the two share all else.

        Raises:
            ConfigError: the template has no such variable, or a value is not plain.
        """
        if not template_kwargs:
            return self
        view = copy.copy(self)
        view._template_kwargs = check_template_values(template_kwargs)
        check_template_names(template_kwargs, self.template_variables)
        return view

    def render(self, messages: Sequence[Mapping[str, object]], tools: Sequence[Mapping[str, object]] = ()) -> list[int]:
        """Token ids of a chat, ready for the assistant's next turn.

        Text in messages and tools that looks like a control token is encoded as ordinary text. Turns that the chat
        template does not take are made to fit, see `TurnRules`.

        Args:
            messages: plain dicts.
            tools: tools in OpenAI's format, for a chat template that knows tools.

        Raises:
            MessageError: the model's chat template refuses these messages, or a key in tools or tool calls holds a
                control token, which could not be told from a real one.
        """
        calls = [message["tool_calls"] for message in messages if "tool_calls" in message]
        self._refuse_control_tokens_in_keys([*tools, *calls])
        template = self._template_for(tools) or PLAIN_TEMPLATE
        with self._lock:
            turns = self._rules_of(template).fit(messages)
            try:
                ids = self._tokenizer.apply_chat_template(
                    cast(list[dict[str, str]], [dict(turn) for turn in turns]),
                    tools=[dict(tool) for tool in tools] or None,
                    chat_template=template,
                    add_generation_prompt=True,
                    tokenize=True,
                    return_dict=False,
                    sanitize_control_tokens=True,
                    begins_with_bos=self._begins_with_bos,
                    **self._template_kwargs,  # type: ignore[arg-type]  # none of which is an argument of its own
                )
            except Exception as error:  # a template is foreign code: whatever it raises is a refusal
                roles = ", ".join(str(turn["role"]) for turn in turns)
                given = f" and template_kwargs={dict(self._template_kwargs)!r}" if self._template_kwargs else ""
                raise MessageError(
                    f"The model's chat template refuses messages with the roles [{roles}]{given}: {error}. Reorder "
                    f"the messages: most templates want a chat to begin with a user turn, and an answer before the "
                    f"next one."
                ) from error
        return list(ids)

    def _rules_of(self, template: str) -> TurnRules:
        """Which turns a template takes, tried out once. The lock must be held."""
        if template not in self._turn_rules:
            render = partial(
                self._tokenizer.apply_chat_template,
                chat_template=template,
                add_generation_prompt=True,
                tokenize=False,
                begins_with_bos=self._begins_with_bos,
            )
            self._turn_rules[template] = find_turn_rules(render)
        return self._turn_rules[template]

    def _template_for(self, tools: Sequence[Mapping[str, object]]) -> str | None:
        """The chat template; the one for tools where a model has two."""
        templates = self._tokenizer.chat_template
        return (
            templates.get("tool_use", self.chat_template)
            if tools and isinstance(templates, dict)
            else self.chat_template
        )

    def _refuse_control_tokens_in_keys(self, value: object) -> None:
        """transformers marks control tokens in values, but not in keys, which a template writes out as well."""
        waiting = [value]
        while waiting:
            node = waiting.pop()
            if isinstance(node, Mapping):
                for key in node:
                    if found := next((token for token in self._control_tokens if token in str(key)), None):
                        raise MessageError(
                            f"The key {key!r} in a tool or a tool call holds the control token {found!r}: rename it."
                        )
                waiting += node.values()
            elif isinstance(node, (list, tuple)):
                waiting += node

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text: no control tokens, neither added nor recognised."""
        with self._lock:
            # <tool_call>, say, which to a tokenizer is no special token
            if isinstance(self._tokenizer, PreTrainedTokenizerFast) and any(m in text for m in self._text_markers):
                return _encode_without_added_tokens(self._tokenizer, text)
            return list(self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))

    def encode_answer(self, text: str) -> list[int]:
        """Token ids of a text as the model would write it: with its own tokens for markers of thoughts and calls."""
        for marker, token_id in self.answer_format.special_tokens.items():
            if marker in text:
                before, _, after = text.partition(marker)
                return [*self.encode_answer(before), token_id, *self.encode_answer(after)]
        return self.encode(text) if text else []

    def copy(self) -> PreTrainedTokenizerBase:
        """A tokenizer of the caller's own."""
        with self._lock:
            return copy.deepcopy(self._tokenizer)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True, keep: Collection[int] = ()) -> str:
        """Text of token ids, exactly as generated; of special tokens only those in `keep`, or all."""
        if skip_special_tokens and keep:
            token_ids = [token_id for token_id in token_ids if token_id not in self._special_ids or token_id in keep]
            skip_special_tokens = False
        with self._decoder_lock:
            return str(
                self._decoder.decode(
                    list(token_ids),
                    skip_special_tokens=skip_special_tokens,
                    clean_up_tokenization_spaces=False,
                )
            )


def _encode_without_added_tokens(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Token ids by the tokenizer's steps one after the other, in none of which it looks for added tokens."""
    backend = tokenizer.backend_tokenizer
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    words = [text]
    if backend.pre_tokenizer is not None:
        words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
    return [token.id for word in words for token in backend.model.tokenize(word)]


def _is_marker(token: AddedToken) -> bool:
    """Whether the grammar engine takes an added token for a sign of its own rather than for text."""
    return token.special or (token.content.startswith("<") and token.content.endswith(">"))
