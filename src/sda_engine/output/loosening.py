"""What a grammar can enforce of a JSON schema, and the parts that are left to a check of the answer.

The grammar engine refuses a whole schema for one part that it does not know. Here such parts are said in other words
where there are some (names of properties by an enum, look-aheads, versions of a UUID), or left out: what fits the
loosened schema is JSON of the same shape. `sda_engine.output.fit` says afterwards whether it fits the schema itself.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from llguidance import LLMatcher

from sda_engine.output.grammar_cost import is_doubtful_pattern
from sda_engine.output.patterns import is_readable, loosen_pattern
from sda_engine.output.schema_gate import MAX_DIVISOR, MAX_REPETITIONS, REPETITIONS, divisor_of, kind_under
from sda_engine.output.variants import exclude_each_other, resolve
from sda_engine.settings import shown

_ENFORCED_FORMATS = frozenset(
    {"date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "unknown", "uri", "uuid"}
)
_NARROWER: Mapping[str, str] = {"idn-email": "email", "idn-hostname": "hostname", "iri": "uri"}
_UUID = "^[0-9a-f]{{8}}-[0-9a-f]{{4}}-{version}[0-9a-f]{{3}}-[89ab][0-9a-f]{{3}}-[0-9a-f]{{12}}$"
_BASE64 = "^(?:[{signs}]{{4}})*(?:[{signs}]{{2}}==|[{signs}]{{3}}=)?$"
_FORMATS_AS_PATTERNS: Mapping[str, str] = {
    **{f"uuid{version}": _UUID.format(version=version) for version in range(1, 9)},
    "base64": _BASE64.format(signs="A-Za-z0-9+/"),
    "base64url": _BASE64.format(signs="A-Za-z0-9_-"),
    "byte": _BASE64.format(signs="A-Za-z0-9+/"),  # OpenAPI's name for base64
}
_FORMATS_OF_NAMES: Mapping[str, str] = {
    "date": r"^[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])$",  # days that every month has
    "uuid": "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
    **_FORMATS_AS_PATTERNS,
}
_UNKNOWN = (
    "not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems", "propertyNames",
    "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
_ONLY_WITH = {"then": "if", "else": "if", "minContains": "contains", "maxContains": "contains"}
_COMBINES = frozenset({"$ref", "allOf", "anyOf", "oneOf", "if", "patternProperties", "dependentSchemas"})


@dataclass(frozen=True)
class LoosenedSchema:
    """A schema that a grammar can enforce.

    Attributes:
        schema: its text has the same shape.
        left_out: what it no longer says, each with its place.
    """

    schema: Mapping[str, object]
    left_out: tuple[str, ...]


def loosen(schema: Mapping[str, object]) -> LoosenedSchema:
    """A schema without the parts that the grammar engine does not know. It has passed `check_schema`, and stays."""
    loosening = _Loosening(schema)
    return LoosenedSchema(loosening.below(schema, ""), tuple(loosening.left_out))


class _Loosening:
    """One schema on its way."""

    def __init__(self, root: Mapping[str, object]) -> None:
        self._root = root
        self._divisor = 1  # the least common multiple so far
        self.left_out: list[str] = []

    def below(self, schema: Mapping[str, object], path: str) -> dict[str, object]:
        """A schema that stands somewhere in the whole."""
        loosened = dict(schema)
        rules: tuple[Callable[[dict[str, object], str], None], ...] = (
            self._name_properties, self._close, self._leave_out_unknown, self._format, self._pattern,
            self._property_patterns, self._repetitions, self._multiple_of, self._alternatives,
        )  # fmt: skip
        for rule in rules:
            rule(loosened, path)
        return {key: self._child(key, value, f"{path}/{key}") for key, value in loosened.items()}

    def _child(self, key: str, value: object, path: str) -> object:
        kind = kind_under(key)
        if kind == "data":
            return value
        if isinstance(value, Mapping):
            if kind == "schema":
                return self.below(value, path)
            return {name: self._schema(part, f"{path}/{name}") for name, part in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._schema(part, f"{path}/{place}") for place, part in enumerate(value)]
        return value

    def _schema(self, value: object, path: str) -> object:
        return self.below(value, path) if isinstance(value, Mapping) else value

    def _leave_out(self, schema: dict[str, object], key: str, path: str) -> None:
        value = schema.pop(key)
        said = f": {shown(value)}" if isinstance(value, (str, int, float)) else ""
        self.left_out.append(f"{key!r}{said} at {_place(path)}")

    def _name_properties(self, schema: dict[str, object], path: str) -> None:
        """propertyNames of a dictionary, as pydantic writes them, as patternProperties."""
        names = schema.get("propertyNames")
        if names is True:
            del schema["propertyNames"]
        elif not {"properties", "patternProperties"} & set(schema) and (pattern := self._pattern_of_names(names)):
            values = schema.get("additionalProperties", True)
            schema["patternProperties"] = {pattern: {} if values is True else values}
            schema["additionalProperties"] = False
            del schema["propertyNames"]

    def _pattern_of_names(self, names: object) -> str | None:
        """A pattern whose texts are all such names; None where it takes more to say it."""
        names = resolve(names, self._root)
        if not isinstance(names, Mapping):
            return None
        says = {key: value for key, value in names.items() if key not in ("title", "description", "type")}
        values = says.pop("enum", [says.pop("const")] if "const" in says else None)
        if isinstance(values, (list, tuple)) and values and all(isinstance(value, str) for value in values):
            return None if says else f"^(?:{'|'.join(map(re.escape, values))})$"
        least, most = says.pop("minLength", None), says.pop("maxLength", None)
        if least is not None or most is not None:
            is_range = all(bound is None or (type(bound) is int and 0 <= bound <= 256) for bound in (least, most))
            return f"^(?s:.){{{least or 0},{'' if most is None else most}}}$" if is_range and not says else None
        if set(says) == {"pattern"} and isinstance(says["pattern"], str):
            return says["pattern"]
        return _FORMATS_OF_NAMES.get(str(says["format"])) if set(says) == {"format"} else None

    def _close(self, schema: dict[str, object], path: str) -> None:
        """What is not evaluated, where nothing else evaluates any."""
        if schema.get("unevaluatedItems") is False and not (_COMBINES | {"items", "contains"}) & set(schema):
            schema["items"] = False
            del schema["unevaluatedItems"]
        if schema.get("unevaluatedProperties") is False and not _COMBINES & set(schema):
            schema.setdefault("additionalProperties", False)
            if schema["additionalProperties"] is False:
                del schema["unevaluatedProperties"]

    def _leave_out_unknown(self, schema: dict[str, object], path: str) -> None:
        given = set(schema)
        for key in _UNKNOWN:
            if key in schema and not (key == "not" and schema[key] in ({}, True)):  # which nothing can fit: refused
                says_nothing = schema[key] is False if key == "uniqueItems" else _ONLY_WITH.get(key, key) not in given
                if says_nothing:
                    del schema[key]
                else:
                    self._leave_out(schema, key, path)

    def _format(self, schema: dict[str, object], path: str) -> None:
        name = schema.get("format")
        if not isinstance(name, str) or name in _ENFORCED_FORMATS or not _may_be_text(schema):
            return
        if name in _NARROWER:
            schema["format"] = _NARROWER[name]
        elif name in _FORMATS_AS_PATTERNS and "pattern" not in schema:
            schema["pattern"] = _FORMATS_AS_PATTERNS[name]
            del schema["format"]
        else:
            self._leave_out(schema, "format", path)

    def _pattern(self, schema: dict[str, object], path: str) -> None:
        pattern = schema.get("pattern")
        if not isinstance(pattern, str):
            return
        parts, exact = _known_parts(pattern)
        if not exact:
            self._leave_out(schema, "pattern", path)
        schema.pop("pattern", None)
        if parts:
            schema["pattern"] = parts[-1]
        if len(parts) > 1:
            together = schema.get("allOf", [])
            assert isinstance(together, (list, tuple))
            schema["allOf"] = [*together, *({"pattern": part} for part in parts[:-1])]

    def _property_patterns(self, schema: dict[str, object], path: str) -> None:
        patterns = schema.get("patternProperties")
        if not isinstance(patterns, Mapping):
            return
        known: dict[str, object] = {}
        for pattern, value in patterns.items():
            parts, exact = _known_parts(pattern)
            known[parts[-1] if parts else ""] = value
            if not exact or len(parts) > 1:
                self.left_out.append(f"the name {shown(pattern)} of 'patternProperties' at {_place(path)}")
        schema["patternProperties"] = known

    def _repetitions(self, schema: dict[str, object], path: str) -> None:
        for key in REPETITIONS & set(schema):
            value = schema[key]
            if isinstance(value, (int, float)) and value > MAX_REPETITIONS:
                self._leave_out(schema, key, path)
        counts = {"minProperties", "maxProperties"} & set(schema)
        properties = schema.get("properties")
        if counts and isinstance(properties, Mapping):
            bare = {key: schema[key] for key in (*counts, "required", "additionalProperties") if key in schema}
            bare["additionalProperties"] = schema.get("additionalProperties") is not False
            nulls = {name: {"type": "null"} for name in properties}
            if not _is_known({**bare, "type": "object", "properties": nulls}):
                for key in sorted(counts):
                    self._leave_out(schema, key, path)

    def _multiple_of(self, schema: dict[str, object], path: str) -> None:
        value = schema.get("multipleOf")
        if not isinstance(value, (int, float)) or isinstance(value, bool) or value <= 0:
            return
        together = math.lcm(self._divisor, divisor_of(value)) if value <= MAX_DIVISOR else math.inf
        if together > MAX_DIVISOR:
            self._leave_out(schema, "multipleOf", path)
        else:
            self._divisor = int(together)

    def _alternatives(self, schema: dict[str, object], path: str) -> None:
        branches = schema.get("oneOf")
        if isinstance(branches, (list, tuple)) and not exclude_each_other(branches, self._root):
            self.left_out.append(f"that no two of 'oneOf' fit at {_place(path)}")


def _place(path: str) -> str:
    return path.lstrip("/") or "the root"


def _may_be_text(schema: Mapping[str, object]) -> bool:
    kinds = schema.get("type", "string")
    return "string" in kinds if isinstance(kinds, (list, tuple)) else kinds == "string"


def _known_parts(pattern: str) -> tuple[list[str], bool]:
    """The parts of a pattern that the grammar engine reads, and whether they are all of it.

    A pattern that no check could read either stays as it is: what is wrong with it is the engine's to say.
    """
    if not is_readable(pattern):
        return [pattern], True
    loosened = loosen_pattern(pattern)
    known = [
        part for part in loosened.parts if is_doubtful_pattern(part) or _is_known({"type": "string", "pattern": part})
    ]
    return known, loosened.exact and len(known) == len(loosened.parts)


def _is_known(schema: Mapping[str, object]) -> bool:
    """Whether the grammar engine takes a small schema."""
    grammar = {"grammars": [{"name": "part", "json_schema": dict(schema)}]}
    return not LLMatcher.validate_grammar(json.dumps(grammar))
