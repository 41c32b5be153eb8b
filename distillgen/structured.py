"""Reads replies that must follow a JSON schema, and says what is wrong with those that do not."""

import functools
from typing import Any

import jsonschema_rs
import orjson

from distillgen.errors import RowFailed
from distillgen.files import canonical


def labels_schema(column: str, labels: list[str]) -> dict[str, Any]:
    """Return the JSON schema of one label out of a closed set."""
    return {
        "type": "object",
        "properties": {column: {"type": "string", "enum": labels}},
        "required": [column],
        "additionalProperties": False,
    }


def wrong_schema(schema: Any) -> str | None:
    """Say why something is not a JSON schema, None when it is one."""
    try:
        jsonschema_rs.validator_for(schema)
    except (jsonschema_rs.ValidationError, ValueError, TypeError) as error:
        return str(error).split("\n", 1)[0]
    return None


@functools.lru_cache(maxsize=256)
def _validator(schema: bytes) -> Any:
    return jsonschema_rs.validator_for(orjson.loads(schema))


def schema_error(value: Any, schema: Any) -> str | None:
    """Return the first thing in `value` that the schema forbids, None when it follows the schema."""
    error = next(iter(_validator(canonical(schema)).iter_errors(value)), None)
    if error is None:
        return None
    path = "".join(f"[{part!r}]" for part in error.instance_path)
    return f"{error.message[:200]}{' at ' + path if path else ''}"


def parse_structured(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the object in a reply, checked against its schema whatever the server promised.

    A code fence around it is taken off. Raises RowFailed with cause `schema`.
    """
    body = text.strip()
    if body.startswith("```"):
        body = body.split("\n", 1)[-1].rsplit("```", 1)[0]
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise RowFailed("schema", f"the reply is not JSON: {body[:120]!r}", lasting=True) from None
    if error := schema_error(value, schema):
        raise RowFailed("schema", f"the reply does not follow the schema: {error}", lasting=True)
    return value  # type: ignore[no-any-return]
