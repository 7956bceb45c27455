"""A group: the sequences that vLLM decodes for one request of a client, and how they are made of that request."""

import re
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

from vllm.sampling_params import SamplingParams
from vllm.v1.request import Request, RequestStatus

from sda_engine.errors import ConfigError, ContextLengthError
from sda_engine.prompts import BASE

KEY = "sda"
"""In `SamplingParams.extra_args`: what makes a request a group."""

MAX_ROWS = 8

HIDDEN_CLIENT = -1
"""The client index of hidden rows. vLLM sorts outputs by it, so what belongs to hidden rows is found in one place."""

_SHORTEST_PROMPT = 2
"""Tokens: the last one of a prompt is held until all rows can sample, and vLLM cannot admit a request with none."""


_NAME = re.compile(r"[a-z]+( [0-9]+)?")
"""Such a name in its id cannot make a hidden row look like a request of a client, which ends in random digits."""


@dataclass(eq=False, slots=True)
class Group:
    """The rows of one request: the client's own one, which reads the base prompt, and hidden ones.

    Attributes:
        rows: the base row first, then the hidden ones in the order in which they were asked for.
    """

    rows: tuple[Request, ...]

    @property
    def main(self) -> Request:
        """The client's own request."""
        return self.rows[0]

    @property
    def id(self) -> str:
        """The id that the client's request has in vLLM's engine."""
        return str(self.rows[0].request_id)

    def running(self) -> list[Request]:
        """Those rows that vLLM has admitted."""
        return [row for row in self.rows if row.status == RequestStatus.RUNNING]

    def is_half_admitted(self) -> bool:
        """Whether some rows run, and others wait."""
        return 0 < len(self.running()) < len(self.rows)


def asks_for_group(request: Request) -> bool:
    """Whether a request is to become a group."""
    params = request.sampling_params
    return params is not None and params.extra_args is not None and KEY in params.extra_args


def read_rows(request: Request, *, vocab_size: int) -> dict[str, list[int]]:
    """The hidden rows that a request asks for, by name.

    Raises:
        ConfigError: the extra arguments of the request are not those of a group, or it is one of no plain text.
    """
    asked = request.sampling_params.extra_args[KEY]
    if request.mm_features or request.prompt_embeds is not None or request.prompt_token_ids is None:
        raise ConfigError("A group reads token ids alone: send no pictures, sound or embeddings with it.")
    if request.resumable:
        raise ConfigError("A group reads its prompt at once: send no streamed input with it.")
    if not isinstance(asked, Mapping) or not {"rows"} <= set(asked) <= {"rows", "settings"}:
        raise ConfigError(f"{KEY} in extra_args must be an object of rows and settings: leave it to SDA's own server.")
    rows, settings = asked["rows"], asked.get("settings", {})
    if not isinstance(rows, Mapping) or not isinstance(settings, Mapping):
        raise ConfigError(f"{KEY}.rows and {KEY}.settings in extra_args must be objects.")
    if len(rows) >= MAX_ROWS:
        raise ConfigError(f"A group has 1 to {MAX_ROWS} rows, not {len(rows) + 1}: combine fewer alignments.")
    return {_checked_name(name): _checked_ids(name, ids, vocab_size) for name, ids in rows.items()}


def _checked_name(name: object) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name == BASE:
        raise ConfigError(f"{name!r} names no hidden row: call it a word, and a number if there are several.")
    return name


def _checked_ids(name: object, ids: object, vocab_size: int) -> list[int]:
    if not isinstance(ids, list | tuple) or not ids or any(type(one) is not int for one in ids):
        raise ConfigError(f"The row {name!r} must be a list of one or more token ids.")
    if min(ids) < 0 or max(ids) >= vocab_size:
        raise ConfigError(f"The row {name!r} holds token ids outside 0..{vocab_size - 1}: use the model's tokenizer.")
    return list(ids)


def check_lengths(request: Request, rows: Mapping[str, list[int]], *, window: int) -> list[int]:
    """How many tokens the prompt of each row has, the base row first.

    Args:
        window: tokens that the model can attend to, prompt and answer together.

    Raises:
        ContextLengthError: a prompt leaves no room for an answer.
        ConfigError: a prompt is too short for rows that wait for each other.
    """
    lengths = [request.num_prompt_tokens, *map(len, rows.values())]
    if max(lengths) >= window:
        raise ContextLengthError(max(lengths), window)
    if rows and min(lengths) < _SHORTEST_PROMPT:
        raise ConfigError("A prompt of one token cannot be held until its group is ready: give it two tokens or more.")
    return lengths


def make_group(request: Request, rows: Mapping[str, list[int]], *, max_tokens: int) -> Group:
    """Turn a client's request into a group.

    Args:
        rows: prompts of the hidden rows; the request itself becomes the base row.
        max_tokens: how long the answer may be, the same for all rows, so that all end in the same step.
    """
    params, asked = request.sampling_params, request.sampling_params.extra_args[KEY]
    shared = {"settings": asked.get("settings", {}), "group": request.request_id, "count": 1 + len(rows)}
    request.sampling_params = _params_of_row(params, {**shared, "row": BASE}, max_tokens)
    request.max_tokens = max_tokens
    hidden = (
        _hidden_row(request, name, ids, _hidden_params(params, {**shared, "row": name}, max_tokens))
        for name, ids in rows.items()
    )
    return Group((request, *hidden))


def _params_of_row(params: SamplingParams, written: dict[str, Any], max_tokens: int) -> SamplingParams:
    """A copy that may be changed: requests of one process may share their parameters."""
    own = copy(params)
    own.extra_args = {**params.extra_args, KEY: written}
    own.max_tokens = max_tokens
    return own


def _hidden_params(params: SamplingParams, written: dict[str, Any], max_tokens: int) -> SamplingParams:
    """The same, without what only the client's own row is to tell or to keep."""
    own = _params_of_row(params, written, max_tokens)
    own.logprobs = own.logprob_token_ids = None
    own.prompt_logprobs = own.prompt_logprob_token_ids = own.prompt_logprob_start = None
    own.structured_outputs = None
    return own


def _hidden_row(request: Request, name: str, ids: list[int], params: SamplingParams) -> Request:
    return Request(
        request_id=f"{request.request_id}/{KEY}/{name}",
        prompt_token_ids=ids,
        sampling_params=params,
        pooling_params=None,
        client_index=HIDDEN_CLIENT,
        arrival_time=request.arrival_time,
        lora_request=request.lora_request,
        cache_salt=request.cache_salt,
        priority=request.priority,
        block_hasher=request._block_hasher,
    )
