"""Chat messages to Contexts: the prompt of every row of a request, as one shared prefix and one tail per row."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from sda_engine.alignment import Alignment
from sda_engine.blank_pictures import with_blank_pictures
from sda_engine.choosing import Sight
from sda_engine.config import Placement
from sda_engine.contents import Content, has_pictures, joined, normalise_content, pictures_of, read_pictures
from sda_engine.errors import ContextLengthError, MessageError
from sda_engine.models import merge_leading_system
from sda_engine.output import Output, jsonable_calls, tool_prompt
from sda_engine.pictures import PictureLimits
from sda_engine.tokens import PLAIN_TEMPLATE_STOP, AnswerFormat, PreparedPicture, SafeTokenizer, text_of_prompt

BASE, INSTRUCTED, AVOIDED = "base", "instructed", "avoided"
ROLES = ("system", "user", "assistant", "tool")
_KEYS = ("role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name")
_END_TOKENS = 16  # of a prompt, among which an opened thought would stand
_AFTER_THOUGHT = "\n\n"  # as models that think write it

# Neutral turns that an instruction can stand in
_AGAIN = "Give the same answer again."
_REWRITE = "Rewrite this text."

Message = Mapping[str, object]


@dataclass(frozen=True)
class Contexts:
    """The prompts of one request.

    Attributes:
        shared: token ids that all rows begin with.
        tails: row name -> the token ids that follow; each has at least one token.
        stop: strings that end the answer, where the prompt's format needs them.
        weights: how much each of the `instructed_rows` counts; they sum to 1.
        pictures: number -> the picture, of all that the token ids below 0 stand for.
    """

    shared: tuple[int, ...]
    tails: Mapping[str, tuple[int, ...]]
    stop: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    pictures: Mapping[int, PreparedPicture] = field(default_factory=dict)

    def prompt_tokens(self, row: str = BASE) -> int:
        """Tokens of one row's prompt."""
        return len(self.shared) + len(self.tails[row])

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest row's prompt."""
        return max(self.prompt_tokens(row) for row in self.tails)


def prompt_end(contexts: Contexts, tokenizer: SafeTokenizer) -> str:
    """The last words of the base prompt, where its chat template may have begun or closed a thought."""
    prompt = text_of_prompt((*contexts.shared, *contexts.tails[BASE]))
    return tokenizer.decode(prompt[-_END_TOKENS:], skip_special_tokens=False)


def without_thought(contexts: Contexts, tokenizer: SafeTokenizer) -> Contexts:
    """The prompts with a thought closed that their chat template opens: what follows is said."""
    markers = tokenizer.answer_format
    if not markers.opens_thought(prompt_end(contexts, tokenizer)):
        return contexts
    closing = tokenizer.encode_answer(f"{markers.thought_end}{_AFTER_THOUGHT}")
    return replace(contexts, tails={row: (*tail, *closing) for row, tail in contexts.tails.items()})


def instructed_rows(rows: Iterable[str]) -> list[str]:
    """Those of some rows whose contexts hold an instruction: several where an alignment is combined of parts."""
    return [row for row in rows if row.startswith(INSTRUCTED)]


def make_contexts(
    messages: Sequence[Message],
    alignment: Alignment | None,
    tokenizer: SafeTokenizer,
    *,
    placement: Placement = "after_query",
    output: Output = Output(),  # noqa: B008 - frozen
    context_window: int | None = None,
) -> Contexts:
    """Render the base context and, where an alignment asks for them, the instructed and the avoided one.

    A combined alignment has an instructed context for each of its parts: "instructed", "instructed 2", ... All contexts
    have the same pictures in the same order, but for one of `Alignment.blank_picture`, where they are blank.

    Args:
        messages: chat messages as plain dicts; never changed.
        alignment: None gives the base row alone.
        tokenizer: renders with the model's own chat template, which need not take a system turn.
        placement: where the instruction goes, see Steering.placement.
        output: the tools and the JSON schema that the prompt tells of, in every row.
        context_window: tokens that the model can attend to, prompt and answer together; None for no limit.

    Raises:
        MessageError: messages are empty, malformed, or refused by the chat template, or hold a picture that cannot be
            read; or they hold none, and the alignment steers by pictures alone.
        ContextLengthError: the longest prompt leaves no room for one new token.
    """
    turns = merge_leading_system(read_messages(messages, tokenizer.pictures))
    turns = _tell_of_output(turns, output, tokenizer)
    tools = [tool.as_function() for tool in output.callable_tools] if tokenizer.answer_format.tools_in_template else []
    texts: dict[str, str | None] = {BASE: None}
    if alignment is not None:
        places = enumerate(alignment.instructions, start=1)
        texts |= {INSTRUCTED if place == 1 else f"{INSTRUCTED} {place}": text for place, text in places}
        texts |= {AVOIDED: alignment.avoid} if _avoids(alignment, turns) else {}
    prompts: dict[str, list[int]] = {}
    pictures: dict[int, PreparedPicture] = {}
    for row, text in texts.items():
        placed = turns if text is None else place_instruction(turns, text, placement)
        if row == AVOIDED and alignment is not None and alignment.blank_picture:
            placed = with_blank_pictures(placed)
        pictures |= {(one := tokenizer.prepare(picture)).number: one for picture in pictures_of(placed)}
        prompts[row] = _rendered(placed, tokenizer, tools, has_tools=bool(output.callable_tools))
    stop, weights = PLAIN_TEMPLATE_STOP if tokenizer.is_plain else (), alignment.weights if alignment else ()
    contexts = replace(_split_shared(prompts, stop, weights), pictures=pictures)
    if context_window is not None and contexts.longest_prompt >= context_window:
        raise ContextLengthError(contexts.longest_prompt, context_window)
    return contexts


def draft_messages(messages: Sequence[Message], response: str, sees: Sight = "chat") -> list[Message]:
    """The chat that a response is revised in: its own, gone on with the request to give that answer once more.

    Where a revision sees the answer alone, a new one that asks to rewrite it, with the pictures of the chat: what is to
    be true of them is in nothing else. Where it sees the question, the chat as it was asked.
    """
    if sees == "question":
        return list(messages)
    if sees == "answer":
        shown = [{"type": "image", "picture": picture} for picture in pictures_of(messages)]
        return [{"role": "user", "content": joined([shown, f"{_REWRITE}\n\n{response}"], "")}]
    return [*messages, {"role": "assistant", "content": response}, {"role": "user", "content": _AGAIN}]


def normalise_messages(messages: Sequence[Message]) -> list[dict[str, object]]:
    """Copies of the messages with normalised contents, checked. Pictures are not read yet.

    Raises:
        MessageError: empty list, unknown role or key, or content that is neither text nor pictures.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise MessageError(
            f"messages cannot be {messages!r}: they must be a list of dicts such as "
            f'[{{"role": "user", "content": "..."}}].'
        )
    if not messages:
        raise MessageError("messages is empty: give at least one, e.g. [{'role': 'user', 'content': '...'}].")
    return [_normalise(message, place) for place, message in enumerate(messages)]


def read_messages(messages: Sequence[Message], pictures: PictureLimits | None) -> list[Message]:
    """Normalised messages with the pictures in them read.

    Args:
        messages: plain dicts; never changed.
        pictures: how many and how large they may be; None for a model that reads text only.

    Raises:
        MessageError: the messages are malformed, or a picture cannot be read.
    """
    return read_pictures(normalise_messages(messages), pictures)


def place_instruction(turns: Sequence[Message], instruction: str, placement: Placement) -> list[Message]:
    """The turns with an instruction added: after the last user turn's text, or in the system turn.

    It stands behind all pictures of the turn, so that what they become is shared by all rows. Without a user turn the
    instruction goes into the system turn. The given turns are not changed.
    """
    placed = list(turns)
    users = [place for place, turn in enumerate(turns) if turn["role"] == "user"]
    if placement == "after_query" and users:
        last = users[-1]
        placed[last] = {**turns[last], "content": joined([_content_of(turns[last]), instruction], "\n")}
        return placed
    return _add_to_system_turn(turns, instruction, "\n")


def _tell_of_output(turns: Sequence[Message], output: Output, tokenizer: SafeTokenizer) -> list[Message]:
    """The turns, with a system turn that tells of tools and of the JSON schema where nothing else does."""
    markers, tools = tokenizer.answer_format, output.callable_tools
    texts = (
        [tool_prompt(tools, markers.call_begin, markers.call_end)] if tools and not markers.tools_in_template else []
    )
    if output.schema_prompt is not None:
        texts.append(output.schema_prompt)
    return _add_to_system_turn(turns, "\n\n".join(texts), "\n\n") if texts else list(turns)


def _add_to_system_turn(turns: Sequence[Message], text: str, separator: str) -> list[Message]:
    """The turns with a text at the end of the system turn, or in a new one."""
    if turns[0]["role"] == "system":
        return [{**turns[0], "content": joined([_content_of(turns[0]), text], separator)}, *turns[1:]]
    return [{"role": "system", "content": text}, *turns]


def _normalise(message: Message, place: int) -> dict[str, object]:
    where = f"messages[{place}]"
    if not isinstance(message, Mapping):
        raise MessageError(f'{where} cannot be {message!r}: it must be a dict such as {{"role": "user", ...}}.')
    given = {key: value for key, value in message.items() if value is not None}
    if (role := given.get("role")) not in ROLES:
        raise MessageError(f"{where} has the role {role!r}: it must be one of {', '.join(ROLES)}.")
    if unknown := [key for key in given if key not in _KEYS]:
        raise MessageError(f"{where} has the unknown key {unknown[0]!r}: the known ones are {', '.join(_KEYS)}.")
    if "content" not in given and "tool_calls" not in given:
        raise MessageError(f"{where} has no content: give it a text.")
    if not isinstance(given.get("reasoning_content", ""), str):
        raise MessageError(f"{where} has a reasoning_content that is no text: give a Completion's reasoning, or none.")
    calls = {"tool_calls": jsonable_calls(given["tool_calls"], where)} if "tool_calls" in given else {}
    return {**given, **calls, "content": normalise_content(given.get("content", ""), where, role)}


def _avoids(alignment: Alignment, turns: Sequence[Message]) -> bool:
    """Whether there is an avoided context."""
    if alignment.avoid is not None or not alignment.blank_picture or has_pictures(turns):
        return alignment.avoid is not None or alignment.blank_picture
    if not alignment.instructions:
        raise MessageError(
            "The alignment steers away from a blank picture alone, and the messages hold no picture. Send one, or give "
            "the alignment an instruction too."
        )
    return False


def _content_of(turn: Message) -> Content:
    """The content of a normalised turn."""
    content = turn["content"]
    assert isinstance(content, (str, list)), "turns are normalised first"
    return content


def _rendered(
    turns: Sequence[Message], tokenizer: SafeTokenizer, tools: Sequence[Mapping[str, object]], *, has_tools: bool
) -> list[int]:
    """The tokens of a chat, with tool calls and results as text where the chat template cannot write them.

    With tools at hand, calls of the past have to look like those that the model is to write. Without, a template that
    knows calls may know them otherwise than we have them, with their arguments as a text, say.
    """
    markers = tokenizer.answer_format
    knows_calls = tokenizer.chat_template is not None and "tool_calls" in tokenizer.chat_template
    if not (markers.tools_in_template if has_tools else knows_calls):
        return tokenizer.render(_tool_turns_as_text(turns, markers), tools)
    try:
        return tokenizer.render(list(turns), tools)
    except MessageError as error:
        # where a template adds arguments to a text, say; one that refuses the chat gives another error
        failed = isinstance(error.__cause__, TypeError)
        if has_tools or not failed or not any(turn.get("tool_calls") for turn in turns):
            raise
        return tokenizer.render(_tool_turns_as_text(turns, markers), tools)


def _tool_turns_as_text(turns: Sequence[Message], markers: AnswerFormat) -> list[Message]:
    """The turns, with tool calls and results written into the text.

    Calls become {"name": ..., "arguments": ...} between the model's markers at the end of the assistant's text, and
    results a user turn <tool_response>...</tool_response>: the format of Hermes, which many models have seen. Results
    that follow each other share one turn, a blank line between them.
    """
    written: list[Message] = []
    for is_result, run in groupby(turns, lambda turn: turn["role"] == "tool"):
        if is_result:
            written.append(_results_as_text(run))
        else:
            written += [_calls_as_text(turn, markers) for turn in run]
    return written


def _results_as_text(turns: Iterable[Message]) -> Message:
    results = (joined(["<tool_response>", _content_of(turn), "</tool_response>"], "\n") for turn in turns)
    return {"role": "user", "content": joined(results, "\n\n")}


def _calls_as_text(turn: Message, markers: AnswerFormat) -> Message:
    calls = turn.get("tool_calls")
    if not isinstance(calls, Sequence) or not calls:
        return turn
    lines: list[Content] = [_content_of(turn)] if turn["content"] else []
    for call in calls:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or "name" not in function:
            raise MessageError(
                f"A tool call cannot be {call!r}: it must be "
                f'{{"type": "function", "function": {{"name": "...", "arguments": {{...}}}}}}.'
            )
        body = {"name": function["name"], "arguments": function.get("arguments", {})}
        lines.append(f"{markers.call_begin}{json.dumps(body, ensure_ascii=False)}{markers.call_end}")
    return {"role": turn["role"], "content": joined(lines, "\n")}


def _split_shared(prompts: Mapping[str, list[int]], stop: tuple[str, ...], weights: tuple[float, ...]) -> Contexts:
    """The longest common prefix of all prompts, short of their last tokens, and what follows in each."""
    limit = min(map(len, prompts.values())) - 1
    columns = zip(*prompts.values(), strict=False)
    shared = next((place for place, column in enumerate(columns) if len(set(column)) > 1), limit)
    shared = min(shared, limit)
    first = next(iter(prompts.values()))
    return Contexts(
        shared=tuple(first[:shared]),
        tails={row: tuple(ids[shared:]) for row, ids in prompts.items()},
        stop=stop,
        weights=weights,
    )
