"""From the bytes of a request to a checked record: strict JSON, limited depth, faults in the caller's spelling."""

from collections.abc import Iterable
from typing import TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from tidings.edge.faults import faults_of, path_of
from tidings.errors import Fault, Invalid

#: levels of objects and lists
MAX_DEPTH = 32
#: the code of what is no JSON that can be read
MALFORMED = "malformed_json"


class Body(BaseModel):
    """A request body: camelCase, no unknown fields, no silent conversions."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=False, extra="forbid", strict=True, frozen=True
    )


BodyT = TypeVar("BodyT", bound=BaseModel)


def read(raw: bytes, model: type[BodyT]) -> BodyT:
    """Return the record of a JSON body. Raises Invalid, with code `malformed_json` where it is no JSON at all."""
    return check(parse(raw), model)


def parse(raw: bytes) -> object:
    """Return the value of a JSON document, at most 32 levels deep, without NUL characters.

    Raises Invalid with code `malformed_json`.
    """
    if not raw.strip():
        raise _malformed("The body is empty: send a JSON document.")
    try:
        value: object = msgspec.json.decode(raw)
    except RecursionError as error:
        raise _malformed(f"The JSON is nested too deeply: at most {MAX_DEPTH} levels.") from error
    except UnicodeDecodeError as error:
        raise _malformed("The body is not UTF-8.") from error
    except msgspec.MsgspecError as error:
        raise _malformed(f"The body is not JSON: {error}.") from error
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
        _check_depth(value)
    if b"\\u0000" in raw and (field := _field_with_nul(value)) is not None:
        fault = Fault(field, "must not contain the character NUL (\\u0000)")
        raise Invalid(
            "The JSON contains the character NUL (\\u0000), which cannot be stored.", faults=(fault,), code=MALFORMED
        )
    return value


def check(value: object, model: type[BodyT]) -> BodyT:
    """Return the record of a parsed body. Raises Invalid naming every field that is wrong."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        faults = faults_of(error, model)
        said = (f"{fault.field}: {fault.message}" if fault.field else fault.message for fault in faults)
        raise Invalid("; ".join(said), faults=faults) from error


def _check_depth(value: object) -> None:
    level = _containers([value])
    for _ in range(MAX_DEPTH):
        level = _containers(child for one in level for child in _children(one))
        if not level:
            return
    raise _malformed(f"The JSON is nested too deeply: at most {MAX_DEPTH} levels.")


def _containers(values: Iterable[object]) -> list[object]:
    return [one for one in values if isinstance(one, dict | list)]


def _field_with_nul(value: object) -> str | None:
    """Return where a NUL stands first: the path of a text, or of the object that has it in a name."""
    left: list[tuple[tuple[int | str, ...], object]] = [((), value)]
    while left:
        loc, one = left.pop()
        if isinstance(one, str) and "\0" in one:
            return path_of(loc)
        if isinstance(one, dict):
            if any("\0" in name for name in one):
                return path_of(loc)
            left.extend(((*loc, name), child) for name, child in reversed(one.items()))
        elif isinstance(one, list):
            left.extend(((*loc, place), one[place]) for place in reversed(range(len(one))))
    return None


def _children(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _malformed(message: str) -> Invalid:
    return Invalid(message, code=MALFORMED)
