"""Turns Pydantic's validation errors into `ValidationFailed`. Each field's message states what is allowed."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from tidings.errors import FieldError, ValidationFailed

#: largest number of reported field errors
MAX_FIELD_ERRORS = 20

#: Pydantic's error type → message, formatted with the error's context
_MESSAGES: Mapping[str, str] = {
    "missing": "is required",
    "string_type": "must be a string",
    "string_too_long": "must have at most {max_length} characters",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "too_long": "must have at most {max_length} items",
    "too_short": "must have at least {min_length} items",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
}
_NOT_AN_OBJECT = frozenset({"model_type", "model_attributes_type", "dict_type"})


def build_validation_failed(
    details: Sequence[Mapping[str, Any]], model: type[BaseModel] | None = None
) -> ValidationFailed:
    """Return the error that names the first 20 invalid fields.

    details: Pydantic's `errors()`; model: of the whole body. An error of the whole body has an empty field (RFC 6901
    §5).
    """
    known = [] if model is None else [field.alias or name for name, field in model.model_fields.items()]
    errors = (
        FieldError(field_path(detail["loc"]), error_message(detail, known)) for detail in details[:MAX_FIELD_ERRORS]
    )
    field_errors = list(dict.fromkeys(errors))
    messages = (f"{error.field}: {error.message}" if error.field else error.message for error in field_errors)
    return ValidationFailed("; ".join(messages), field_errors=field_errors)


#: how Pydantic names an alternative of a union: by its class, or by the kind of its schema
_UNION_PART = re.compile(r"[\[(]|^constrained-|Body$")


def field_path(loc: Sequence[int | str]) -> str:
    """Return the path of a field: `keys.p256dh`, `userIds[3]`. The alternatives of a union are left out."""
    text = ""
    for part in loc:
        if isinstance(part, str) and text and _UNION_PART.search(part):
            continue
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def error_message(detail: Mapping[str, Any], known: Sequence[str] = ()) -> str:
    """Return the message of one error. detail: an item of Pydantic's `errors()`; known: the fields of the body."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _MESSAGES:
        return _MESSAGES[kind].format_map(context)
    if kind in _NOT_AN_OBJECT:
        return "must be a JSON object" if detail["loc"] else "the body must be a JSON object"
    match kind:
        case "extra_forbidden" if len(detail["loc"]) == 1:
            return f"is not a known field; known are: {', '.join(known)}"
        case "extra_forbidden":
            return "is not a known field"
        case "value_error":
            return str(context["error"])
        case "string_too_short":
            min_length = context["min_length"]
            return "must not be empty" if min_length == 1 else f"must have at least {min_length} characters"
        case "enum" | "literal_error":
            # Pydantic formats them as: 'a', 'b' or 'c'
            return f"must be one of {context['expected'].replace(' or ', ', ').replace(chr(39), '')}"
        case _:
            message = str(detail["msg"])
            return message[:1].lower() + message[1:]
