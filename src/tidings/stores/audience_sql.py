"""An audience tree → SQL. Pure: no connection here.

Paging by `id > cursor` over an `IN (subquery)` would build the whole set again for each page. So every audience is
turned into *branches*: one driving set that has an index in user-id order, and predicates that are looked up per
user. A page then costs the same at the start and at the end of the audience.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

from sqlalchemy import ColumnElement, Select, and_, exists, not_, or_, select, union

from tidings.model.audience import AllOf, AnyOf, Audience, Except, Members
from tidings.ports.pack import AudienceKind

EVERYONE = Members("everyone")
Kinds = Mapping[str, AudienceKind]


@dataclass(frozen=True, slots=True)
class Branch:
    """Users of `driver` for whom all `conditions` hold."""

    driver: Members
    conditions: tuple[Audience, ...] = ()

    def narrowed(self, conditions: tuple[Audience, ...]) -> "Branch":
        return Branch(self.driver, self.conditions + conditions)


def branches(audience: Audience) -> tuple[Branch, ...]:
    """Return branches whose union is the audience."""
    match audience:
        case Members():
            return (Branch(audience),)
        case AnyOf(parts):
            return tuple(branch for part in parts for branch in branches(part))
        case Except(Except(part)):
            return branches(part)
        case Except():
            return (Branch(EVERYONE, (audience,)),)
        case AllOf(parts):
            driver = min(parts, key=_breadth)
            rest = tuple(part for part in parts if part is not driver)
            return tuple(branch.narrowed(rest) for branch in branches(driver))
        case _:
            assert_never(audience)


def _breadth(audience: Audience) -> int:
    """How wide an audience is likely to be: the narrowest part of an `and` drives it."""
    match audience:
        case Members("users"):
            return 0
        case Members("everyone"):
            return 8
        case Members():
            return 1
        case AllOf(parts):
            return min(_breadth(part) for part in parts)
        case AnyOf(parts):
            return max(_breadth(part) for part in parts)
        case Except():
            return 9
        case _:
            assert_never(audience)


def holds(audience: Audience, user_id: ColumnElement[str], kinds: Kinds) -> ColumnElement[bool]:
    """Return the condition that `user_id` is in the audience."""
    match audience:
        case Members(kind, arguments):
            # the set stands in FROM as a derived table, so that it never correlates with a table outside by accident
            members = kinds[kind].members(arguments).subquery()
            return exists(select(1).select_from(members).where(members.c[0] == user_id))
        case AnyOf(parts):
            return or_(*(holds(part, user_id, kinds) for part in parts))
        case AllOf(parts):
            return and_(*(holds(part, user_id, kinds) for part in parts))
        case Except(part):
            return not_(holds(part, user_id, kinds))
        case _:
            assert_never(audience)


def page_of_ids(audience: Audience, kinds: Kinds, *, after: str | None, limit: int | None) -> Select[str]:
    """Return the SELECT of the next user ids in order; `limit` None selects them all."""
    selects = []
    for branch in branches(audience):
        members = kinds[branch.driver.kind].members(branch.driver.arguments).subquery()
        user_id = members.c[0]
        query = select(user_id.label("user_id")).where(*(holds(c, user_id, kinds) for c in branch.conditions))
        if limit is not None:
            # also for the first page, as "greater than nothing": without it SQLite takes the set for a large one,
            # joins it the other way round and reads all users and preferences
            query = query.where(user_id > (after or ""))
        selects.append(query if limit is None else query.order_by(user_id).limit(limit))
    if len(selects) == 1:
        return selects[0]
    merged = union(*(select(s.subquery()) for s in selects)).subquery()
    both = select(merged.c.user_id)
    return both if limit is None else both.order_by(merged.c.user_id).limit(limit)
