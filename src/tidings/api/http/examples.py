"""Examples of request bodies in the OpenAPI document, by method and path."""

from collections.abc import Mapping

_EVENT_ID = "019ab3c4-71d2-7e55-9f10-6b2f4c1d8e90"
_KEYS = {
    # RFC 8291, appendix A
    "p256dh": "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
    "auth": "BTBZMqHH6r4Tts7J_aSIgg",
}
_ENDPOINT = "https://updates.push.services.mozilla.com/wpush/v2/gAAAAABk"
_PAYMENT = {"userId": "user-123", "orderNumber": "ORD-1001", "amount": "49.90", "currency": "EUR"}
_CONTACT_POINT = {"channel": "email", "address": "ana@example.com", "label": "Work"}
_PREFERENCES = {"preferences": [{"category": "NEW_EVENT", "channel": "email", "enabled": False}]}
_STREAM = {"graceSeconds": 45, "countBy": "user", "access": "ticket_holders"}
_USER = {"userId": "user-123"}
_DEAD_LETTERS = {"error": "503 Service Unavailable", "channel": "webpush", "dryRun": True, "limit": 1000}

EXAMPLES: Mapping[tuple[str, str], Mapping[str, object]] = {
    ("post", "/api/notifications"): {
        "userId": "user-123",
        "templateCode": "MESSAGE",
        "variables": {"title": "Your parcel is here", "body": "Collect it until Friday."},
        "options": {"priority": "high", "delay": 60_000, "actionUrl": "/orders/1001", "actionText": "View order"},
    },
    ("post", "/api/notifications/batch"): {
        "userIds": ["user-123", "user-124"],
        "templateCode": "MESSAGE",
        "variables": {"title": "Doors open at 19:00", "body": "See you tonight."},
    },
    ("put", "/api/users/{user_id}"): {
        "email": "ana@example.com",
        "phone": "+41791234567",
        "locale": "de-CH",
        "timezone": "Europe/Zurich",
        "city": "Zürich",
        "attributes": {"plan": "pro"},
    },
    ("post", "/api/users/me/contact-points"): _CONTACT_POINT,
    ("post", "/api/users/{user_id}/contact-points"): _CONTACT_POINT,
    ("post", "/api/users/me/contact-points/{contact_point_id}/rotate-secret"): {"overlapSeconds": 86_400},
    ("post", "/api/users/{user_id}/contact-points/{contact_point_id}/rotate-secret"): {"overlapSeconds": 86_400},
    ("post", "/api/users/me/contact-points/{contact_point_id}/enable"): {"replay": True},
    ("post", "/api/users/{user_id}/contact-points/{contact_point_id}/enable"): {"replay": True},
    ("post", "/api/users/me/contact-points/{contact_point_id}/replay"): {"since": "2026-11-22T19:30:00+01:00"},
    ("post", "/api/users/{user_id}/contact-points/{contact_point_id}/replay"): {"since": "2026-11-22T19:30:00+01:00"},
    ("put", "/api/users/me/preferences"): _PREFERENCES,
    ("put", "/api/users/{user_id}/preferences"): _PREFERENCES,
    ("post", "/api/push/subscribe"): {"endpoint": _ENDPOINT, "keys": _KEYS, "device": "Firefox on Linux"},
    ("delete", "/api/push/unsubscribe"): {"endpoint": _ENDPOINT},
    ("post", "/api/inbox/seen"): {"ids": [_EVENT_ID]},
    ("post", "/api/inbox/read-all"): {"upTo": _EVENT_ID},
    ("post", "/api/inbox/{item_id}/snooze"): {"until": "2026-11-23T08:00:00+01:00"},
    ("put", "/api/streams/{event_id}"): _STREAM,
    ("put", "/api/users/me/stream-settings"): _STREAM,
    ("post", "/api/orders"): {
        "orderId": "order-1001",
        "userId": "user-123",
        "orderNumber": "ORD-1001",
        "total": "49.90",
        "currency": "EUR",
    },
    ("post", "/api/orders/{order_id}/ship"): {"carrier": "Swiss Post", "trackingNumber": "99.00.123456"},
    ("post", "/api/payments/{payment_id}/capture"): _PAYMENT,
    ("post", "/api/payments/{payment_id}/fail"): {**_PAYMENT, "attempt": 1, "reason": "The card has expired."},
    ("post", "/api/inventory/{sku}"): {"productName": "Vinyl record", "currentStock": 4, "threshold": 5},
    ("post", "/api/customers/{user_id}/welcome"): {"userName": "Ana"},
    ("post", "/api/events"): {
        "title": "Night of the Small Orchestras",
        "startDate": "2026-12-05T19:00:00+01:00",
        "venue": "Lakeside Stage",
        "city": "Zürich",
        "hostId": "user-123",
        "status": "ACTIVE",
    },
    ("patch", "/api/events/{event_id}"): {"startDate": "2026-12-05T20:00:00+01:00"},
    ("post", "/api/events/{event_id}/notify"): {"title": "Doors open at 18:00", "body": "Please bring your ticket."},
    ("post", "/api/events/{event_id}/tickets"): _USER,
    ("delete", "/api/events/{event_id}/tickets"): _USER,
    ("post", "/api/events/{event_id}/favourites"): _USER,
    ("delete", "/api/events/{event_id}/favourites"): _USER,
    ("post", "/api/domain-events"): {
        "specversion": "1.0",
        "id": "evt-1001",
        "source": "/shop",
        "type": "shop.order.created",
        "data": {"userId": "user-123", "orderNumber": "ORD-1001"},
    },
    ("post", "/api/channels/{channel}/test"): {"address": "ana@example.com"},
    ("post", "/api/suppressions"): {"channel": "email", "address": "ana@example.com", "reason": "manual"},
    ("post", "/api/dead-letters/replay"): _DEAD_LETTERS,
    ("post", "/api/dead-letters/discard"): _DEAD_LETTERS,
}
