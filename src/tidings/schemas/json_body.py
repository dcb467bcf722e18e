"""Parses JSON bodies into models: strict JSON, limited depth, errors with the caller's field names."""

from collections.abc import Iterable
from typing import TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from tidings.errors import FieldError, ValidationFailed
from tidings.schemas.validation_errors import build_validation_failed, field_path

#: nesting levels of objects and lists
MAX_DEPTH = 32
#: error code of a body that cannot be parsed
MALFORMED_CODE = "malformed_json"


class RequestModel(BaseModel):
    """A request body: camelCase, no unknown fields, no implicit conversions."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=False, extra="forbid", strict=True, frozen=True
    )


RequestModelT = TypeVar("RequestModelT", bound=BaseModel)


def parse_body(raw: bytes, model: type[RequestModelT]) -> RequestModelT:
    """Return the model of a JSON body. Raises ValidationFailed, with code `malformed_json` if it is not JSON."""
    return validate_body(parse_json(raw), model)


def parse_json(raw: bytes) -> object:
    """Return the value of a JSON document, at most 32 levels deep, without NUL characters.

    Raises ValidationFailed with code `malformed_json`.
    """
    if not raw.strip():
        raise _malformed("The body is empty. Send a JSON document.")
    try:
        value: object = msgspec.json.decode(raw)
    except RecursionError as error:
        raise _malformed(f"The JSON is nested too deeply; at most {MAX_DEPTH} levels are allowed.") from error
    except UnicodeDecodeError as error:
        raise _malformed("The body is not UTF-8.") from error
    except msgspec.MsgspecError as error:
        raise _malformed(f"The body is not JSON: {error}.") from error
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
        _check_depth(value)
    if b"\\u0000" in raw and (field := _find_nul(value)) is not None:
        field_error = FieldError(field, "must not contain the character NUL (\\u0000)")
        raise ValidationFailed(
            "The JSON contains the character NUL (\\u0000), which cannot be stored.",
            field_errors=(field_error,),
            code=MALFORMED_CODE,
        )
    return value


def validate_body(value: object, model: type[RequestModelT]) -> RequestModelT:
    """Return the model of a parsed body. Raises ValidationFailed naming each invalid field."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise build_validation_failed(error.errors(include_url=False), model) from error


def _check_depth(value: object) -> None:
    level = _containers([value])
    for _ in range(MAX_DEPTH):
        level = _containers(child for parent in level for child in _children(parent))
        if not level:
            return
    raise _malformed(f"The JSON is nested too deeply; at most {MAX_DEPTH} levels are allowed.")


def _containers(values: Iterable[object]) -> list[object]:
    return [value for value in values if isinstance(value, dict | list)]


def _find_nul(value: object) -> str | None:
    """Return the path of the first string with a NUL, or of the object with a NUL in a member name."""
    stack: list[tuple[tuple[int | str, ...], object]] = [((), value)]
    while stack:
        loc, node = stack.pop()
        if isinstance(node, str) and "\0" in node:
            return field_path(loc)
        if isinstance(node, dict):
            if any("\0" in name for name in node):
                return field_path(loc)
            stack.extend(((*loc, name), child) for name, child in reversed(node.items()))
        elif isinstance(node, list):
            stack.extend(((*loc, index), node[index]) for index in reversed(range(len(node))))
    return None


def _children(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _malformed(message: str) -> ValidationFailed:
    return ValidationFailed(message, code=MALFORMED_CODE)
