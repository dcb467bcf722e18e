"""Assigns the collected items of a plan to digests, and sends those at once that open one first. Pure."""

from collections.abc import Mapping
from dataclasses import replace

from msgspec import structs

from tidings.flow.fanout.planner import Plan
from tidings.model.digest import CollectedItem, DigestKey
from tidings.ports.digests import OpenDigest


def resolve_collected(plan: Plan, opened: Mapping[DigestKey, OpenDigest], leading: set[DigestKey]) -> Plan:
    """Return the plan with the digest of each item.

    opened: digest of each key; an item whose user was erased has none and is dropped. leading: keys whose digest was
    opened, and whose first item is still to come; with `first_at_once` that item is sent instead of collected.
    """
    if not plan.collected:
        return plan
    planned, skipped = list(plan.planned), list(plan.skipped)
    collected: list[CollectedItem] = []
    for item in plan.collected:
        digest = opened.get(item.key)
        if digest is None:
            continue
        if item.first_at_once and item.key in leading:
            planned.extend(item.deliveries)
            skipped.extend(item.skips)
        else:
            collected.append(structs.replace(item, digest_id=digest.digest_id, deliveries=(), skips=()))
        leading.discard(item.key)
    return replace(plan, planned=planned, skipped=skipped, collected=collected)
