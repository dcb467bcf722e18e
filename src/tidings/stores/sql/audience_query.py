"""Compiles an audience tree to SQL. Pure: uses no connection.

Paging with `id > cursor` over an `IN (subquery)` would build the whole set for each page. So an audience is turned into
*branches*: one driving set with an index in user-id order, and conditions that are checked per user. The cost of a page
then does not depend on its position in the audience.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import assert_never

from sqlalchemy import ColumnElement, Select, and_, exists, not_, or_, select, union

from tidings.model.audience import Audience, Complement, Intersection, NamedSet, Union
from tidings.ports.pack import AudienceKind

EVERYONE = NamedSet("everyone")
AudienceKinds = Mapping[str, AudienceKind]


@dataclass(frozen=True, slots=True)
class Branch:
    """The members of `driver` that are also in each audience of `conditions`."""

    driver: NamedSet
    conditions: tuple[Audience, ...] = ()

    def with_conditions(self, conditions: tuple[Audience, ...]) -> "Branch":
        return Branch(self.driver, self.conditions + conditions)


def to_branches(audience: Audience, kinds: AudienceKinds = MappingProxyType({})) -> tuple[Branch, ...]:
    """Return branches whose union is the audience. kinds: rank the sets by `breadth`."""
    match audience:
        case NamedSet():
            return (Branch(audience),)
        case Union(parts):
            return tuple(branch for part in parts for branch in to_branches(part, kinds))
        case Complement(Complement(part)):
            return to_branches(part, kinds)
        case Complement():
            return (Branch(EVERYONE, (audience,)),)
        case Intersection(parts):
            driver = min(parts, key=lambda part: _estimate_breadth(part, kinds))
            rest = tuple(part for part in parts if part is not driver)
            return tuple(branch.with_conditions(rest) for branch in to_branches(driver, kinds))
        case _:
            assert_never(audience)


def _estimate_breadth(audience: Audience, kinds: AudienceKinds) -> int:
    """Rank an audience by its likely size. The part of an intersection with the lowest rank becomes its driving set."""
    match audience:
        case NamedSet("users"):
            return 0
        case NamedSet("everyone"):
            return 8
        case NamedSet(name):
            return kinds[name].breadth if name in kinds else 1
        case Intersection(parts):
            return min(_estimate_breadth(part, kinds) for part in parts)
        case Union(parts):
            return max(_estimate_breadth(part, kinds) for part in parts)
        case Complement():
            return 9
        case _:
            assert_never(audience)


def membership_condition(audience: Audience, user_id: ColumnElement[str], kinds: AudienceKinds) -> ColumnElement[bool]:
    """Return the condition that `user_id` is a member of the audience."""
    match audience:
        case NamedSet(kind, arguments):
            # a derived table in FROM, so that the set cannot correlate with a table of the outer query
            members = kinds[kind].members(arguments).subquery()
            return exists(select(1).select_from(members).where(members.c[0] == user_id))
        case Union(parts):
            return or_(*(membership_condition(part, user_id, kinds) for part in parts))
        case Intersection(parts):
            return and_(*(membership_condition(part, user_id, kinds) for part in parts))
        case Complement(part):
            return not_(membership_condition(part, user_id, kinds))
        case _:
            assert_never(audience)


def select_user_ids(audience: Audience, kinds: AudienceKinds, *, after: str | None, limit: int | None) -> Select[str]:
    """Return a SELECT of the user ids after `after`, in order.

    limit: None selects all user ids, in no order, and ignores `after`.
    """
    selects = []
    for branch in to_branches(audience, kinds):
        members = kinds[branch.driver.kind].members(branch.driver.arguments).subquery()
        user_id = members.c[0]
        query = select(user_id.label("user_id")).where(
            *(membership_condition(condition, user_id, kinds) for condition in branch.conditions)
        )
        if limit is not None:
            # Also on the first page, as `> ''`. Without the condition SQLite assumes a large set, reverses the join and
            # reads all users and preferences.
            query = query.where(user_id > (after or ""))
        selects.append(query if limit is None else query.order_by(user_id).limit(limit))
    if len(selects) == 1:
        return selects[0]
    merged = union(*(select(branch_select.subquery()) for branch_select in selects)).subquery()
    combined = select(merged.c.user_id)
    return combined if limit is None else combined.order_by(merged.c.user_id).limit(limit)
