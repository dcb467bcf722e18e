"""Response models: camelCase fields, paginated lists, the `Location` header of created resources."""

from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar
from urllib.parse import quote

import msgspec
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel
from starlette.responses import Response

#: OpenAPI's `headers` of a response from `with_location`
LOCATION_HEADER: Final[dict[str, object]] = {
    "Location": {"description": "URL of the created resource", "schema": {"type": "string", "format": "uri-reference"}}
}


class ResponseModel(BaseModel):
    """A response, or a part of one. Built from keyword arguments, or from a record with attributes of the same names.

    A frozen record can be the type of a field; its fields become camelCase, too.
    """

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


class HasId(Protocol):
    """A row whose id serves as keyset cursor."""

    @property
    def id(self) -> str: ...


ItemT = TypeVar("ItemT", bound=HasId)
RowT = TypeVar("RowT")


def paginate(rows: Sequence[ItemT], limit: int) -> tuple[Sequence[ItemT], str | None]:
    """Return one page and the cursor of the next page, None after the last. rows: up to `limit + 1`, in order."""
    return paginate_by(rows, limit, lambda row: row.id)


def paginate_by(rows: Sequence[RowT], limit: int, key: Callable[[RowT], str]) -> tuple[Sequence[RowT], str | None]:
    """Return the same for rows that are ordered by something else than an id. key: row → cursor."""
    page = rows[:limit]
    return page, key(page[-1]) if len(rows) > limit else None


class _WithId(msgspec.Struct):
    id: str


def with_location(response: Response, base_path: str) -> Response:
    """Return the response, with `Location: {base_path}/{id}` if it is a 201 or 202 (RFC 9110 §10.2.2).

    The id is read from the response body, because a stored response has no other source. base_path: such as
    `/api/events`.
    """
    if response.status_code in {201, 202}:
        created = msgspec.json.decode(bytes(response.body), type=_WithId)
        response.headers["Location"] = f"{base_path}/{quote(created.id, safe='')}"
    return response
