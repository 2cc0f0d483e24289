"""The part of JSON schema that klbench's own schemas use."""

from typing import Any


def conforms(value: Any, schema: dict[str, Any], defs: dict[str, Any]) -> bool:
    """Whether a value is what a JSON schema says: the keywords that ours uses."""
    if "$ref" in schema:
        schema = defs[schema["$ref"].rpartition("/")[2]]
    if "const" in schema:
        return value == schema["const"]
    if "enum" in schema:
        return value in schema["enum"]
    kinds = {
        "object": dict,
        "string": str,
        "null": type(None),
        "boolean": bool,
        "array": list,
        "integer": int,
        "number": int | float,
    }
    kind = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not any(isinstance(value, kinds[each]) for each in kind):
        return False
    if isinstance(value, dict):
        known, more = schema.get("properties", {}), schema.get("additionalProperties", True)
        if not set(schema.get("required", ())) <= value.keys() or (
            more is False and not value.keys() <= known.keys()
        ):
            return False
        extra = more if isinstance(more, dict) else None
        return all(
            conforms(each, known.get(key, extra), defs)
            for key, each in value.items()
            if known.get(key, extra)
        )
    return not isinstance(value, list) or all(
        conforms(each, schema["items"], defs) for each in value
    )
