"""Objects that name their properties have only those: a model that may invent keys would."""

from collections.abc import Mapping

from sda_engine.output.schema_gate import ANNOTATIONS, DEFINITIONS, walk

_SPEAKS_FOR_ITSELF = frozenset(
    {"additionalProperties", "patternProperties", "unevaluatedProperties", "$ref", "allOf", "anyOf", "oneOf"}
)
_PARTS = ("if", "then", "else", "not", "contains", "propertyNames")


def close_objects(schema: dict[str, object]) -> None:
    """Give objects that name their properties `additionalProperties: false`, in place.

    Objects that say something themselves stay as they are, and so do those that are only part of a whole, since
    closed parts would exclude each other.
    """
    nodes = [
        (node.value, node.within) for node in walk(schema) if node.kind == "schema" and isinstance(node.value, dict)
    ]
    parts = {id(part) for value, _ in nodes for part in _parts_of_a_whole(value)}
    combines_references = bool(parts) or any(_combines_a_reference(value) for value, _ in nodes)
    for value, within in nodes:
        is_alone = id(value) not in parts and not (combines_references and within in DEFINITIONS)
        if isinstance(value.get("properties"), dict) and not _SPEAKS_FOR_ITSELF & set(value) and is_alone:
            value["additionalProperties"] = False


def _parts_of_a_whole(schema: Mapping[str, object]) -> list[object]:
    """Schemas that hold together with others: of an allOf, an if, a not, and of alternatives beside properties."""
    parts = [schema.get(keyword) for keyword in _PARTS]
    dependent = schema.get("dependentSchemas")
    parts += dependent.values() if isinstance(dependent, Mapping) else ()
    for keyword in ("allOf", "anyOf", "oneOf"):
        branches = schema.get(keyword)
        if isinstance(branches, list) and (keyword == "allOf" or "properties" in schema):
            parts += branches
    return [part for part in parts if part is not None]


def _combines_a_reference(schema: Mapping[str, object]) -> bool:
    """Whether a schema says more of an object than its reference does."""
    return "$ref" in schema and bool(set(schema) - ANNOTATIONS - {"$ref", "type"})
