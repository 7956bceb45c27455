"""The OpenAPI file: bodies that the wire format reads by itself are described by its own models."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from sda_engine.wire.replies import ErrorReply

_REF = "#/components/schemas/{model}"
_ERRORS: Mapping[str, Any] = {"model": ErrorReply, "description": "What went wrong."}


def replies(model: type[BaseModel] | None = None, **reply: object) -> dict[int | str, dict[str, Any]]:
    """What `responses` of a route says: the reply where all is well, and that any other tells of an error.

    Args:
        model: what the reply is, in JSON.
        reply: what else OpenAPI is told of it, or in place of a model.
    """
    return {200: reply if model is None else {"model": model, **reply}, "default": {**_ERRORS}}


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """What `openapi_extra` of a route says where its body is such a model, in JSON; `describe_bodies` says the rest."""
    schema = {"$ref": _REF.format(model=_asked(model.__name__))}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def describe_bodies(app: FastAPI, models: tuple[type[BaseModel], ...]) -> None:
    """Put the models that `json_body` refers to into an application's OpenAPI file.

    Replies have models of the same names, so those of requests are told apart by a prefix.
    """
    make = app.openapi

    def openapi() -> dict[str, Any]:
        made = app.openapi_schema
        if made is None:
            made = make()
            schemas: dict[str, Any] = made.setdefault("components", {}).setdefault("schemas", {})
            for model in models:
                schema = model.model_json_schema(ref_template=_REF.format(model=_asked("{model}")))
                for name, inner in schema.pop("$defs", {}).items():
                    schemas[_asked(name)] = inner
                schemas[_asked(model.__name__)] = schema
        return made

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend it


def _asked(name: str) -> str:
    return f"asked.{name}"
