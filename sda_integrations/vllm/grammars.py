"""From the engine's grammars to one text in Lark, which is what vLLM takes."""

import json
import re
from collections.abc import Mapping

_REFERENCE = re.compile(r'"(?:[^"\\]|\\.)*"|/(?:[^/\\\n]|\\.)+/|@([A-Za-z_][A-Za-z0-9_]*)')
_PREFIX = "part_"  # of rules that stand for the grammars that others refer to


def as_lark(grammar: str) -> str:
    """One grammar in llguidance's dialect of Lark that derives what several named ones derive together.

    Args:
        grammar: JSON text of named grammars, as `sda_engine.output` makes it; the first one begins.
    """
    first, *others = json.loads(grammar)["grammars"]
    rules = [_body(other, f"{_PREFIX}{other['name']}: ") for other in others]
    if first.get("lark_grammar"):
        return "\n".join([_referring(first["lark_grammar"]), *rules])
    return "\n".join([_body(first, "start: "), *rules])


def _body(grammar: Mapping[str, object], head: str) -> str:
    """A rule that derives what a named grammar does."""
    if grammar.get("json_schema") is not None:
        return f"{head}%json {json.dumps(grammar['json_schema'], ensure_ascii=False)}"
    return f"{head}%lark {{\n{grammar['lark_grammar']}\n}}"


def _referring(lark: str) -> str:
    """A grammar that refers to rules where it referred to grammars, @name; not within its texts and expressions."""
    return _REFERENCE.sub(lambda found: found[0] if found[1] is None else f"{_PREFIX}{found[1]}", lark)
