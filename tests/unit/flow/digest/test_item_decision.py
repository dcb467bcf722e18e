"""What becomes of one item when its digest closes."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

from msgspec import structs

from tidings.errors import ValidationFailed
from tidings.flow.digest.item_check import ItemChecks, ItemContext
from tidings.flow.digest.item_decision import ItemContent, decide_item
from tidings.flow.plan.candidate import PlanContext
from tidings.flow.plan.digest_content import MAX_SHOWN_ITEMS
from tidings.model.decision import Skip
from tidings.model.delivery import Recipient, SkipReason
from tidings.model.digest import Digest, DigestItem, DigestKey, DigestState
from tidings.model.notification import Notification
from tidings.model.preference import Preference
from tidings.model.template import Category, RenderedMessage
from tidings.testing.clock import START as NOW
from tidings.testing.contracts.samples import make_notification

CHANNELS = ("webpush", "email")
NOTIFICATION = replace(make_notification(), channels=())
DIGEST = Digest("d1", DigestKey("ana", "NEWS", "r1", ""), "NEWS", NOW, NOW, DigestState.OPEN, 1)
ANA = Recipient("ana", "en", "UTC", (), dict.fromkeys(CHANNELS, ("t1",)))
TEXT = RenderedMessage("Title", "Body", "/", "en")
ITEM = ItemContext(DigestItem("d1", NOTIFICATION.id, "ana", NOW), NOTIFICATION, ANA, channels=CHANNELS)
#: an entry that leaves the item out on one channel
NO_MAIL = (Preference("", "email", False),)
FULL = MAX_SHOWN_ITEMS


def decide(
    facts: ItemContext = ITEM, digest: Digest = DIGEST, counts: Mapping[str, int] | None = None, error: str = ""
) -> Skip | ItemContent:
    def render(_notification: Notification, _recipient: Recipient) -> RenderedMessage:
        if error:
            raise ValidationFailed.for_field("variables", error)
        return TEXT

    category = Category(NOTIFICATION.category, "News")
    checks = ItemChecks({NOTIFICATION.id: PlanContext(NOTIFICATION, category, CHANNELS, NOW)})
    return decide_item(digest, facts, checks, NOW, counts=counts or {}, render=render)


def test_an_item_stays_with_its_text_on_all_its_channels() -> None:
    assert decide() == ItemContent(NOTIFICATION, ANA, CHANNELS, {}, TEXT)


def test_an_item_of_a_deleted_notification_has_expired() -> None:
    assert decide(ItemContext(ITEM.item, None, None)) == Skip(SkipReason.EXPIRED)


def test_an_item_that_the_rules_leave_out_is_skipped_for_their_reason() -> None:
    erased = decide(structs.replace(ITEM, recipient=None))
    assert isinstance(erased, Skip)
    assert erased.reason is SkipReason.USER_ERASED


def test_an_item_of_a_digest_that_closes_too_late_is_overdue() -> None:
    late = structs.replace(DIGEST, closes_at=NOW - timedelta(days=2), catch_up=timedelta(days=1))
    old = structs.replace(ITEM, item=structs.replace(ITEM.item, accepted_at=NOW - timedelta(days=2)))
    assert isinstance(decide(digest=late), ItemContent), "one that joined since is younger"
    assert decide(old, late) == Skip(
        SkipReason.DIGEST_OVERDUE, {"dueAt": late.closes_at.isoformat(timespec="seconds"), "catchUpSeconds": 86_400}
    )


def test_the_text_is_rendered_only_if_a_channel_has_room_for_it() -> None:
    full = {"webpush": FULL, "email": FULL}
    assert decide(counts=full | {"email": FULL - 1}) == decide()
    beyond = decide(counts=full, error="is never rendered")
    assert beyond == ItemContent(NOTIFICATION, ANA, CHANNELS, {}, None)
    # on the channel that has room, the item is not shown
    pushed = decide(structs.replace(ITEM, preferences=NO_MAIL), counts={"webpush": FULL})
    assert isinstance(pushed, ItemContent)
    assert (pushed.channels, list(pushed.left_out_on), pushed.message) == (["webpush"], ["email"], None)


def test_an_item_that_cannot_be_rendered_is_left_out() -> None:
    failed = decide(error="is missing")
    assert isinstance(failed, Skip)
    assert failed.reason is SkipReason.RENDER_FAILED
