"""Keeps chat templates out that run on for ever or fill the memory.

A chat template is a program that comes with a model. The sandbox of transformers keeps it from files and from Python,
but not from `{% for i in range(99999) %}` inside another one, or from 'x' * 10**9. So it first renders some short chats
in a process of its own, with limits that the system enforces.
"""

import json
import subprocess
from collections.abc import Mapping, Sequence
from functools import lru_cache
from multiprocessing.spawn import get_executable
from pathlib import Path

from transformers import PreTrainedTokenizerBase, ProcessorMixin

from sda_engine.errors import ModelLoadError

_SECONDS = 10  # until the process is ended; one that computes is ended after half of them
_MEGABYTES = 512
_CHARACTERS = 200_000
_PROBE = Path(__file__).with_name("template_probe.py")

_USER = {"role": "user", "content": "What time is it?"}
_ANSWER = {"role": "assistant", "content": "<think>\nLet me see.\n</think>\n\nIt is noon."}
_SYSTEM = {"role": "system", "content": "Be brief."}
_CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"type": "function", "id": "a1b2c3d4e", "function": {"name": "clock", "arguments": {"zone": "UTC"}}}
    ],
}
_RESULT = {"role": "tool", "name": "clock", "tool_call_id": "a1b2c3d4e", "content": "12:00"}
_CLOCK = {
    "type": "function",
    "function": {
        "name": "clock",
        "description": "Tells the time.",
        "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]},
    },
}
_Dicts = Sequence[Mapping[str, object]]
_CHATS: Sequence[tuple[_Dicts, _Dicts | None]] = (
    ([_USER], None),
    ([_SYSTEM, _USER, _ANSWER, _USER], None),
    ([_USER, _ANSWER] * 20 + [_USER], None),
    ([_SYSTEM, _USER], [_CLOCK]),
    ([_USER, _CALL, _RESULT, _ANSWER, _USER], [_CLOCK] * 4),
)


def check_templates(tokenizer: PreTrainedTokenizerBase, processor: ProcessorMixin | None = None) -> None:
    """Have each chat template of a tokenizer render some short chats, which takes a fifth of a second, and once only.

    A template that is harmless there and without bounds elsewhere is not found out: load models of people you trust.

    Args:
        tokenizer: the tokenizer.
        processor: of a model that sees, whose templates are tried out too.

    Raises:
        ModelLoadError: one cannot be compiled, or takes too much time or memory.
    """
    both = [tokenizer.chat_template, getattr(processor, "chat_template", None)]
    for template in (one for templates in both for one in _each(templates)):
        if isinstance(template, str):
            chats = [
                {"messages": messages, "tools": tools, "add_generation_prompt": True, "documents": None}
                | tokenizer.special_tokens_map
                for messages, tools in _CHATS
            ]
            limits = {"megabytes": _MEGABYTES, "seconds": _SECONDS // 2, "characters": _CHARACTERS}
            task = json.dumps({"template": template, "chats": chats, **limits}, default=str)
            _try_out(tokenizer.name_or_path, task)


def _each(templates: object) -> list[object]:
    return list(templates.values()) if isinstance(templates, dict) else [templates]


@lru_cache(maxsize=64)
def _try_out(owner: str, task: str) -> None:
    """Raise ModelLoadError for a template that cannot be used; those that can are remembered."""
    if fault := _fault(task):
        raise ModelLoadError(
            f"The chat template of {owner!r} is refused: {fault}. Look at it, and load the model from somebody you "
            f"trust."
        )


def _fault(task: str) -> str:
    """Why a template cannot be used; "" where it can."""
    command = [get_executable(), "-I", str(_PROBE)]  # -I: no settings of the user's, and no module beside the script
    try:
        done = subprocess.run(command, input=task, capture_output=True, encoding="utf-8", timeout=_SECONDS)  # noqa: S603
    except subprocess.TimeoutExpired:
        return f"it has not rendered some short chats within {_SECONDS} seconds"
    except OSError as error:
        return f"it could not be tried out in a process of its own ({error})"
    if done.returncode != 0:
        return f"it does not render some short chats in {_SECONDS // 2} seconds of computing"
    return done.stdout
