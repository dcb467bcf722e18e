"""What answers look like: camelCase, lists in pages, `Location` where something new can be read."""

from collections.abc import Sequence
from typing import Final, Protocol, TypeVar
from urllib.parse import quote

import msgspec
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel
from starlette.responses import Response

#: the `headers` that OpenAPI describes of an answer that `located` made
LOCATION: Final[dict[str, object]] = {
    "Location": {"description": "where to read it", "schema": {"type": "string", "format": "uri-reference"}}
}


class Shown(BaseModel):
    """A part of an answer. Made from field names, or from a record whose attributes have those names."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        from_attributes=True,
        frozen=True,
        serialize_by_alias=True,
        ser_json_inf_nan="null",
    )

    def json_object(self) -> dict[str, object]:
        """Return the JSON form."""
        return self.model_dump(mode="json", by_alias=True)


class Identified(Protocol):
    """Something with an id that can be a cursor."""

    @property
    def id(self) -> str: ...


ItemT = TypeVar("ItemT", bound=Identified)


def page_of(found: Sequence[ItemT], limit: int) -> tuple[Sequence[ItemT], str | None]:
    """Return one page and the cursor of the next, None after the last. found: up to `limit + 1`, in order."""
    page = found[:limit]
    return page, page[-1].id if len(found) > limit else None


class _Named(msgspec.Struct):
    id: str


def located(response: Response, folder: str) -> Response:
    """Return the answer, with `Location: folder/{its id}` if it is a 201 or 202 (RFC 9110 §10.2.2).

    The id is read from the answer itself, because an answer that is repeated has nothing else. folder: a path such as
    `/api/events`.
    """
    if response.status_code in {201, 202}:
        named = msgspec.json.decode(bytes(response.body), type=_Named)
        response.headers["Location"] = f"{folder}/{quote(named.id, safe='')}"
    return response
