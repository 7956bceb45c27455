import jsonschema
import pytest
from langchain_core.tools import StructuredTool
from pydantic import BaseModel

from sda_engine.errors import ConstraintError
from sda_engine.output import LoosenedSchemaWarning
from sda_engine.testing import ScriptedEngine, call_text
from sda_integrations.langchain import ChatSDA


class Person(BaseModel):
    """A person."""

    id: int
    parent: "Person | None" = None


def introduce(person: Person, loudly: bool) -> str:
    """Introduce a person."""
    return f"{person} {loudly}"


NODE = {
    "type": "object",
    "properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
    "required": ["v", "next"],
}
BY_DEFINITION = {**NODE, "$defs": {"node": NODE}}
BY_ROOT = {
    "type": "object",
    "properties": {"v": {"type": "integer"}, "children": {"type": "array", "items": {"$ref": "#"}}},
    "required": ["v", "children"],
}


def remote(schema):
    return StructuredTool(name="remote", description="From elsewhere.", args_schema=schema, func=lambda **_: "")


@pytest.mark.parametrize(
    ("tool", "check"),
    [
        (Person, Person.model_validate),
        (introduce, lambda arguments: Person.model_validate(arguments["person"])),
        (remote(BY_DEFINITION), lambda arguments: jsonschema.validate(arguments, BY_DEFINITION)),
        (remote(BY_ROOT), lambda arguments: jsonschema.validate(arguments, BY_ROOT)),
    ],
    ids=["class", "function", "definition", "root"],
)
def test_recursive_arguments_fit_their_schema(tool, check, tiny) -> None:
    for seed in range(6):
        chat = ChatSDA(engine=tiny, temperature=1, max_tokens=300, seed=seed)
        (call,) = chat.bind_tools([tool], tool_choice="any").invoke("Hi").tool_calls
        check(call["args"])


IDS = {
    "title": "pick",
    "type": "object",
    "properties": {"ids": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}},
    "required": ["ids"],
}


@pytest.mark.parametrize("stream", [False, True])
def test_only_the_call_that_does_not_fit_is_invalid(stream) -> None:
    text = call_text("pick", {"ids": [1, 1]}) + "\n" + call_text("pick", {"ids": [1]})
    chat = ChatSDA(engine=ScriptedEngine(text)).bind_tools([IDS], tool_choice="any", parallel_tool_calls=True)
    with pytest.warns(LoosenedSchemaWarning):
        answer = sum_of(chat.stream("Hi")) if stream else chat.invoke("Hi")
    assert [call["args"] for call in answer.tool_calls] == [{"ids": [1]}]
    assert len(answer.invalid_tool_calls) == 1


def sum_of(chunks):
    first, *others = chunks
    for chunk in others:
        first += chunk
    return first


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_strict_refuses_a_schema_of_which_a_part_is_left_out(method, tiny) -> None:
    model = ChatSDA(engine=tiny).with_structured_output(IDS, method=method, strict=True)
    with pytest.raises(ConstraintError, match="uniqueItems"):
        model.invoke("Hi")
