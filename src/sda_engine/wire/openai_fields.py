"""Every field of OpenAI's requests: what becomes of it here. None is dropped in silence.

A field that cannot be honoured is refused, but for the values that say nothing, which clients send without being asked:
null, and what stands in `ignorable`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sda_engine.errors import ConfigError
from sda_engine.settings import shown


@dataclass(frozen=True)
class OpenAIField:
    """What becomes of a field.

    Attributes:
        honoured: whether it has its effect.
        note: in which way it has; of a field that is refused, why, and what to do.
        ignorable: values of a refused field that ask for nothing.
    """

    honoured: bool
    note: str
    ignorable: tuple[object, ...] = ()


def _honoured(note: str) -> OpenAIField:
    return OpenAIField(True, note)


def _refused(note: str, *ignorable: object) -> OpenAIField:
    return OpenAIField(False, note, ignorable)


_SHARED: Mapping[str, OpenAIField] = {
    "model": _honoured("a served name, or an alias NAME:ALIGNMENT; see /v1/models"),
    "max_tokens": _honoured("tokens of the answer at most, a thought included; default 512"),
    "temperature": _honoured("0 is greedy; default 0.6. It follows the divergence, see temperature_schedule"),
    "top_p": _honoured("above 0, at most 1; default 0.95"),
    "n": _honoured("answers to one prompt; with a seed the second has seed + 1, and so on"),
    "stop": _honoured("a text or a list of texts"),
    "seed": _honoured("the same seed repeats the same answer"),
    "stream": _honoured("server-sent events"),
    "stream_options": _honoured("include_usage; include_obfuscation only as false"),
    "user": _honoured("written to the server's log beside the request's id, and used for nothing else"),
    "frequency_penalty": _refused("steering has no penalties: leave it out", 0),
    "presence_penalty": _refused("steering has no penalties: leave it out", 0),
    "logit_bias": _refused("single tokens cannot be biased: describe what you want in sda.alignment", {}),
}

CHAT_FIELDS: Mapping[str, OpenAIField] = MappingProxyType(
    {
        "messages": _honoured("texts, and data URLs of pictures where the model sees; no address is fetched"),
        **_SHARED,
        "max_completion_tokens": _honoured("the same as max_tokens, by its newer name"),
        "tools": _honoured("functions; a grammar makes every call valid"),
        "tool_choice": _honoured("'auto', 'none', 'required', or a function"),
        "parallel_tool_calls": _honoured("whether one answer may hold several calls; default false"),
        "response_format": _honoured("text, json_object or json_schema, kept by a grammar"),
        "logprobs": _honoured("log-probabilities of the steered distribution, before temperature and truncation"),
        "top_logprobs": _honoured("how many of the most likely tokens to tell at each place; needs logprobs"),
        "reasoning_effort": _honoured("where the model's chat template has a variable for it; 'none' where it thinks"),
        "safety_identifier": _honoured("as user"),
        "audio": _refused("the model writes text: leave it out"),
        "function_call": _refused("it is tool_choice's older name: use that"),
        "functions": _refused("it is the older name of tools: use that", []),
        "metadata": _refused("nothing is stored: leave it out", {}),
        "modalities": _refused("the model writes text alone: leave it out", ["text"]),
        "moderation": _refused("nothing is moderated: rate answers with sda.evaluator"),
        "prediction": _refused("texts are proposed from the prompt already: leave it out"),
        "prompt_cache_key": _refused("prompts that begin alike are found by themselves: leave it out"),
        "prompt_cache_options": _refused("prompts that begin alike are found by themselves: leave it out"),
        "prompt_cache_retention": _refused("stored prompts stay as long as there is room: leave it out"),
        "service_tier": _refused("there is one tier: leave it out", "auto", "default"),
        "store": _refused("nothing is stored: leave it out", False),
        "verbosity": _refused("say in sda.alignment how long answers should be", "medium"),
        "web_search_options": _refused("nothing is fetched: retrieve first, and put it into the messages"),
    }
)
"""The fields of /v1/chat/completions."""

COMPLETION_FIELDS: Mapping[str, OpenAIField] = MappingProxyType(
    {
        "prompt": _honoured("a text, or a list of texts, each answered apart; it becomes a user turn"),
        **_SHARED,
        "logprobs": _honoured("how many of the most likely tokens to tell at each place, at most 5"),
        "best_of": _refused("revisions are sda.policy='revise': leave it out", 1),
        "echo": _refused("the prompt is not repeated: put it before the answer yourself", False),
        "suffix": _refused("answers end where the model ends them: leave it out", ""),
    }
)
"""The fields of /v1/completions."""


def without_ignorable(given: Mapping[str, object], fields: Mapping[str, OpenAIField]) -> dict[str, object]:
    """The fields of a request but for those that ask for nothing.

    Args:
        given: the request, as it came.
        fields: all that the route knows of OpenAI's.

    Raises:
        ConfigError: it asks for what cannot be honoured.
    """
    kept: dict[str, object] = {}
    for name, value in given.items():
        known = fields.get(name)
        if known is None or known.honoured:
            kept[name] = value
        elif not _asks_for_nothing(value, known.ignorable):
            raise ConfigError(f"{name} cannot be {shown(value)}: {known.note}.", field=name)
    return kept


def _asks_for_nothing(value: object, ignorable: tuple[object, ...]) -> bool:
    """Whether a value is null or one of some, where false is not taken for 0."""
    as_bool = isinstance(value, bool)
    return value is None or any(value == one and as_bool == isinstance(one, bool) for one in ignorable)
