"""What the tests of chat templates ask of both adapters."""

from pydantic import BaseModel

NO_THOUGHT = {"enable_thinking": False}


class Person(BaseModel):
    age: int


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b
