"""Renders chats with a chat template under limits of time and memory: a script for a process of its own.

It knows nothing but jinja2, so that it starts in a tenth of a second, and has what transformers gives a template.
Standard input: JSON of template, chats (keywords of a rendering), megabytes, seconds and characters. Standard output:
what is wrong with the template, or nothing.
"""

import json
import sys
from datetime import datetime

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class _Generation(Extension):
    """transformers' {% generation %} block, which marks what the assistant says."""

    tags = {"generation"}  # noqa: RUF012 - as in jinja2

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def make_environment() -> jinja2.Environment:
    """The environment that transformers runs chat templates in."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _limit(megabytes: int, seconds: int) -> None:
    """Have the system enforce the limits, where it can; elsewhere the waiting process still ends this one in time."""
    try:
        import resource  # only on Unix
    except ImportError:
        return
    for kind, most in ((resource.RLIMIT_AS, megabytes * 2**20), (resource.RLIMIT_CPU, seconds)):
        try:
            resource.setrlimit(kind, (most, most))
        except (ValueError, OSError):  # macOS has no limit of address space
            continue


def _fault(template: str, chats: list[dict[str, object]], characters: int) -> str:
    """Why a template cannot be used; "" where it can."""
    try:
        compiled = make_environment().from_string(template)
    except jinja2.TemplateError as error:
        return f"it cannot be compiled: {error}"
    for chat in chats:
        length = 0
        try:
            for part in compiled.generate(**chat):
                length += len(part)
                if length > characters:
                    return f"it makes more than {characters:,} characters of a short chat"
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001, S112 - it refuses this chat, and may do so: that is not without bounds
            continue
    return ""


def main() -> None:
    """Read the task, and write the verdict."""
    task = json.load(sys.stdin)
    _limit(task["megabytes"], task["seconds"])
    try:
        fault = _fault(task["template"], task["chats"], task["characters"])
    except (MemoryError, RecursionError):
        fault = f"it takes more than {task['megabytes']} MB for a short chat"
    sys.stdout.write(fault)


if __name__ == "__main__":
    main()
