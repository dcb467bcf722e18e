"""What is wrong with a body, one sentence per field, saying what would be right."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from tidings.errors import Fault

#: faults told at once
MAX_FAULTS = 20

#: kind of error → the sentence, filled in with the limits that were broken
_SENTENCES: Mapping[str, str] = {
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
_NO_OBJECT = frozenset({"model_type", "model_attributes_type", "dict_type"})


def faults_of(error: ValidationError, model: type[BaseModel]) -> Sequence[Fault]:
    """Return the first 20 things that are wrong. A fault of the whole body has an empty field (RFC 6901 §5)."""
    details = error.errors(include_url=False, include_context=True)[:MAX_FAULTS]
    known = [field.alias or name for name, field in model.model_fields.items()]
    return list(dict.fromkeys(Fault(path_of(one["loc"]), sentence(one, known)) for one in details))


def path_of(loc: Sequence[int | str]) -> str:
    """Return the path of a field: `keys.p256dh`, `userIds[3]`."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def sentence(detail: Mapping[str, Any], known: Sequence[str] = ()) -> str:
    """Say what would be right instead. detail: one of the library's `errors()`; known: the fields of the whole."""
    kind, told = detail["type"], detail.get("ctx", {})
    if kind in _SENTENCES:
        return _SENTENCES[kind].format_map(told)
    if kind in _NO_OBJECT:
        return "must be a JSON object" if detail["loc"] else "the body must be a JSON object"
    match kind:
        case "extra_forbidden" if len(detail["loc"]) == 1:
            return f"is not a known field; known are: {', '.join(known)}"
        case "extra_forbidden":
            return "is not a known field"
        case "value_error":
            return str(told["error"])
        case "string_too_short":
            least = told["min_length"]
            return "must not be empty" if least == 1 else f"must have at least {least} characters"
        case "enum" | "literal_error":
            # the library says: 'a', 'b' or 'c'
            return f"must be one of {told['expected'].replace(' or ', ', ').replace(chr(39), '')}"
        case _:
            message = str(detail["msg"])
            return message[:1].lower() + message[1:]
