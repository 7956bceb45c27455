"""A tokenizer that threads can share, and that user text cannot trick into writing control tokens.

A transformers tokenizer is not thread-safe: sanitising, truncation and special-token handling are switched on the
shared object, and concurrent calls silently give wrong ids. The engine therefore keeps private copies behind
locks, and leaves the user's own tokenizer alone. One renders and encodes, and one decodes, so that the text of running
answers does not wait for a long prompt.
"""

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Self, cast

from transformers import AddedToken, PreTrainedTokenizerBase, PreTrainedTokenizerFast, ProcessorMixin

from sda_engine.contents import has_pictures
from sda_engine.errors import MessageError
from sda_engine.forks import make_lock
from sda_engine.models import (
    TemplateValue,
    check_template_names,
    check_template_values,
    template_variables,
)
from sda_engine.pictures import Picture, PictureLimits
from sda_engine.tokens.answer_format import make_answer_format
from sda_engine.tokens.control_tokens import ControlTokens
from sda_engine.tokens.fitted_turns import FittedTurns, texts_of
from sda_engine.tokens.known_words import KnownWords
from sda_engine.tokens.picture_chats import PictureChats
from sda_engine.tokens.picture_tokens import PreparedPicture

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

    Args:
        tokenizer: the model's; a copy of it is used.
        processor: of a model that sees, whose chat template comes before the tokenizer's; None for text alone.
        image_token_id: the token that such a model puts pictures in the place of.
        pictures: see below.

    Attributes:
        chat_template: the model's own, or None.
        answer_format: how the model writes tool calls and thoughts.
        special_tokens: text -> id of every token that is not ordinary text.
        template_variables: what `with_template_kwargs` may set.
        pictures: how many pictures a chat may hold, and how large; None where the model reads text only.
        salt: of the requests that this is for: words and pictures are known again among those of one salt alone.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        processor: ProcessorMixin | None = None,
        image_token_id: int | None = None,
        pictures: PictureLimits | None = None,
    ) -> None:
        self.pictures = pictures
        if processor is not None and processor.chat_template is not None:
            tokenizer = copy.deepcopy(tokenizer)
            tokenizer.chat_template = processor.chat_template
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
        self._control_tokens = ControlTokens([token.content for token in added.values()])
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
        self.salt: bytes | None = None
        self._words = KnownWords(self._tokenizer)
        self._turns = FittedTurns(self._write)
        self._picture_chats: PictureChats | None = None
        if processor is not None and image_token_id is not None:
            self._picture_chats = PictureChats(processor, self._tokenizer, image_token_id)

    @property
    def is_plain(self) -> bool:
        """Whether the plain template stands in for a missing chat template."""
        return self.chat_template is None

    @property
    def reads_pictures(self) -> bool:
        """Whether chats may hold pictures."""
        return self._picture_chats is not None

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

    def with_salt(self, salt: bytes | None) -> Self:
        """This tokenizer for requests of a salt; the two share all but what they remember of texts and pictures."""
        if salt == self.salt:
            return self
        view = copy.copy(self)
        view.salt = salt
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
        self._control_tokens.refuse_in_keys([*tools, *calls])
        template = self._template_for(tools) or PLAIN_TEMPLATE
        with self._lock:
            self._words.forget_others(self.salt)
            turns = self._turns.fit(messages, template)
            try:
                if has_pictures(turns):
                    return self._render_pictures(turns, tools, template)
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
            except MessageError:
                raise
            except Exception as error:  # a template is foreign code: whatever it raises is a refusal
                roles = ", ".join(str(turn["role"]) for turn in turns)
                given = f" and template_kwargs={dict(self._template_kwargs)!r}" if self._template_kwargs else ""
                raise MessageError(
                    f"The model's chat template refuses messages with the roles [{roles}]{given}: {error}. Reorder "
                    f"the messages: most templates want a chat to begin with a user turn, and an answer before the "
                    f"next one."
                ) from error
        return list(ids)

    def prepare(self, picture: Picture) -> PreparedPicture:
        """A picture as the model reads it.

        Raises:
            MessageError: the model cannot be given pictures, or not this one.
        """
        template = self.chat_template
        if self._picture_chats is None:
            raise MessageError(
                "The messages hold a picture, and this model was loaded without its processor, which makes its inputs "
                "of pictures. Where it has one, the log says why that could not be loaded; a model in memory takes "
                "SteeringEngine(..., processor=...)."
            )
        if template is None:
            raise MessageError(
                "The messages hold a picture, and this model has no chat template that says where pictures go. Load "
                "its instruction-tuned version, or set processor.chat_template."
            )
        with self._lock:
            return self._picture_chats.prepare(picture, template, self.salt)

    def _render_pictures(
        self, turns: Sequence[Mapping[str, object]], tools: Sequence[Mapping[str, object]], template: str
    ) -> list[int]:
        """`render`, of turns that hold pictures. The lock must be held."""
        assert self._picture_chats is not None, "prepare() comes first"
        for turn in turns:
            self._control_tokens.refuse_in_pieces(texts_of(turn["content"]))
        return self._picture_chats.render(
            turns,
            template,
            self.salt,
            # not always: some processors cannot read what is marked
            sanitize=self._control_tokens.are_in([*turns, *tools]),
            tools=[dict(tool) for tool in tools] or None,
            **self._template_kwargs,
        )

    def _write(self, turns: Sequence[Mapping[str, object]], template: str) -> object:
        """A chat as a template writes it. The lock must be held."""
        return self._tokenizer.apply_chat_template(
            cast(list[dict[str, str]], turns),
            chat_template=template,
            add_generation_prompt=True,
            tokenize=False,
            begins_with_bos=self._begins_with_bos,
        )

    def _template_for(self, tools: Sequence[Mapping[str, object]]) -> str | None:
        """The chat template; the one for tools where a model has two."""
        templates = self._tokenizer.chat_template
        return (
            templates.get("tool_use", self.chat_template)
            if tools and isinstance(templates, dict)
            else self.chat_template
        )

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text: no control tokens, neither added nor recognised."""
        with self._lock:
            self._words.forget_others(self.salt)
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
