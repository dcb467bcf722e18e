"""SQL that creates a million rows for tests of query plans. Both databases create the same rows."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

#: creation time of the newest rows
NOW = datetime(2026, 11, 22, 13, tzinfo=UTC)
#: notifications and their deliveries are spread over this many weeks before it
WEEKS = 12
NOTIFICATIONS = 50_000
#: deliveries of each notification, while there are deliveries
EACH = 20
_FIRST = int((NOW - timedelta(weeks=WEEKS)).timestamp() * 1000)
_STEP = WEEKS * 7 * 86_400_000 // NOTIFICATIONS


def row_id(kind: int, number: int) -> str:
    """Return the id of a notification (0), a delivery (1), a device (2), a batch (3) or a skip (4).

    The rows of a notification are created seconds after it. A batch has the deliveries of one notification.
    """
    at = _FIRST + (number if kind in (0, 3) else number // EACH) * _STEP + 1000 * kind
    return f"{at >> 16:08x}-{at & 0xFFFF:04x}-7000-8000-{number:012d}"


class SqliteDialect:
    """SQL expressions for bulk rows on SQLite."""

    @staticmethod
    def numbers(count: int) -> str:
        counted = f"SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {count - 1}"  # numbers
        return f"FROM (WITH RECURSIVE n(i) AS ({counted}) SELECT i FROM n)"

    @staticmethod
    def padded(number: str, width: int) -> str:
        return f"printf('%0{width}d', {number})"

    @staticmethod
    def id(kind: int, number: str) -> str:
        at = f"({_FIRST + 1000 * kind} + ({number if kind in (0, 3) else f'{number} / {EACH}'}) * {_STEP})"
        return f"printf('%08x-%04x-7000-8000-%012d', {at} >> 16, {at} & 65535, {number})"

    @staticmethod
    def bytes(value: str) -> str:
        return f"x'{value}'"


class PostgresDialect(SqliteDialect):
    """SQL expressions for bulk rows on PostgreSQL."""

    @staticmethod
    def numbers(count: int) -> str:
        return f"FROM generate_series(0, {count - 1}) AS i"

    @staticmethod
    def padded(number: str, width: int) -> str:
        return f"lpad(({number})::text, {width}, '0')"

    @staticmethod
    def id(kind: int, number: str) -> str:
        at = f"({_FIRST + 1000 * kind} + ({number if kind in (0, 3) else f'{number} / {EACH}'})::bigint * {_STEP})"
        return f"(lpad(to_hex({at}), 12, '0') || '70008000' || lpad(({number})::text, 12, '0'))::uuid"

    @staticmethod
    def bytes(value: str) -> str:
        return f"'\\x{value}'::bytea"


_NOW = f"'{NOW.isoformat(timespec='microseconds')}'"


def bulk_insert_statements(of: type[SqliteDialect], deliveries: int) -> Sequence[str]:
    """Return statements that create about 750 000 rows and this number of deliveries."""
    user, event, key = of.padded("i", 6), of.padded("i % 5000", 4), of.padded("i", 64)
    made = f"CAST({_NOW} AS timestamptz)" if of is PostgresDialect else _NOW
    return (
        f"""INSERT INTO users (id, email, phone, locale, timezone, city, attributes, created_at, updated_at, country,
                           latitude, longitude)
        SELECT 'user-' || {user}, 'user-' || {user} || '@example.org', '+4144' || {user}, 'en', 'UTC',
               'city-' || (i % 50), '{{}}', {made}, {made}, 'C' || (i % 10), (i % 1700) / 10.0 - 85,
               (i % 3571) / 10.0 - 178 {of.numbers(150_000)}""",
        f"""INSERT INTO user_topics (user_id, topic, created_at)
        SELECT 'user-' || {of.padded("i / 2", 6)}, 'topic-' || (i % 10), {made} {of.numbers(60_000)}""",
        f"""INSERT INTO receipts (id, event_digest, channel, provider, cause, address_digest, user_id, sealed,
                              occurred_at, received_at, repeats)
        SELECT {of.id(2, "i")}, {key}, 'email', 'tidings', CASE WHEN i % 3 = 0 THEN 'open' ELSE 'none' END,
               CASE WHEN i % 2 = 0 THEN {key} END,
               CASE WHEN i % 2 = 1 THEN 'user-' || {of.padded("(i % 50000)", 6)} END, {of.bytes("00")}, {made}, {made},
               0 {of.numbers(60_000)}""",
        f"""INSERT INTO preferences (user_id, category, channel, enabled)
        SELECT 'user-' || {of.padded("i / 3", 6)}, 'NEWS-' || (i % 3),
               CASE WHEN i % 2 = 1 THEN 'webpush' ELSE 'email' END, i % 5 > 0 {of.numbers(150_000)}""",
        f"""INSERT INTO contact_points (id, user_id, channel, identity_digest, host, sealed, key_id, attributes,
                                    state, state_changed_at, created_at, last_seen_at, is_from_profile, version)
        SELECT {of.id(2, "i")}, 'user-' || {user}, 'webpush', {key}, 'push.example', {of.bytes("00")}, {of.id(0, "1")},
               '{{}}', 'active', {made}, {made}, {made}, false, 1 {of.numbers(150_000)}""",
        f"""INSERT INTO events (id, title, description, start_date, host_id, city, status, version, created_at,
                            updated_at)
        SELECT 'event-' || {of.padded("i", 4)}, 't', '', {made}, 'host-' || (i % 20), 'city-' || (i % 50),
               CASE WHEN i % 4 > 0 THEN 'DRAFT' ELSE 'ACTIVE' END, 1, {made}, {made} {of.numbers(5_000)}""",
        f"""INSERT INTO tickets (event_id, user_id, status, created_at)
        SELECT 'event-' || {of.padded("i % 3", 4)}, 'user-' || {user},
               CASE WHEN i % 10 > 0 THEN 'active' ELSE 'returned' END, {made} {of.numbers(150_000)}""",
        f"""INSERT INTO favourites (event_id, user_id, host_id, created_at)
        SELECT 'event-' || {event}, 'user-' || {user}, 'host-' || (i % 20), {made} {of.numbers(50_000)}""",
        f"""INSERT INTO notifications (id, template_code, template_version, category, audience, variables, priority,
                                   channels, send_at, expires_at, created_at, state, recipients, deliveries, skipped)
        SELECT {of.id(0, "i")}, 'CODE-' || (i % 500), 1, 'NEWS-' || (i % 9), '{{"kind": "everyone"}}', '{{}}', 'high',
               '[]', {made}, {made}, {made}, CASE WHEN i % 1000 > 0 THEN 'fanned_out' ELSE 'fanning_out' END, 0, 0, 0
        {of.numbers(NOTIFICATIONS)}""",
        f"""INSERT INTO deliveries (id, notification_id, user_id, channel, target_id, lane, state, rule, batch_id,
                                due_at, attempts, lease_token, lease_until, created_at, updated_at)
        SELECT {of.id(1, "i")}, {of.id(0, f"(i / {EACH})")}, 'user-' || {of.padded("i % 150000", 6)}, 'webpush',
               {of.id(2, "(i % 150000)")}, 'high',
               CASE WHEN i % 50 = 0 THEN 'sending' WHEN i % 5 = 0 THEN 'pending' WHEN i % 99 = 0 THEN 'refused'
                    ELSE 'delivered' END,
               'on by default', CASE WHEN i % 3 > 0 THEN {of.id(3, f"(i / {EACH})")} END, {made}, 0,
               CASE WHEN i % 50 = 0 THEN {of.id(0, "(i / 1000)")} END, CASE WHEN i % 50 = 0 THEN {made} END, {made},
               {made} {of.numbers(deliveries)}""",
        f"""INSERT INTO attempts (delivery_id, started_at, number, outcome, why, finished_at)
        SELECT {of.id(1, "i")}, {made}, 1, 'delivered', 'ok', {made} {of.numbers(50_000)}""",
        f"""INSERT INTO skips (id, notification_id, user_id, channel, reason, detail, created_at)
        SELECT {of.id(4, "i")}, {of.id(0, "(i / 2)")}, 'user-' || {user}, 'email', 'no_device', '{{}}', {made}
        {of.numbers(40_000)}""",
        f"""INSERT INTO outbox (id, kind, ref, lane, version, due_at)
        SELECT {of.id(0, "i")}, 'deliver', {of.id(0, "i")}, 'high', 1, {made} {of.numbers(50_000)}""",
        f"""INSERT INTO api_keys (id, digest, prefix, label, scopes, created_at)
        SELECT {of.id(0, "i")}, {key}, 'tdg', 'key', '[]', {made} {of.numbers(5_000)}""",
        # one caller that uses keys often, and browsers
        f"""INSERT INTO idempotency_keys (caller, key, request_digest, body, created_at)
        SELECT CASE WHEN i % 2 = 0 THEN 'caller' ELSE 'user:user-' || i END, 'key-' || i,
            'digest', {of.bytes("")}, {made} {of.numbers(4_000)}""",
        # ten items of each of 6000 users
        f"""INSERT INTO inbox_items (id, user_id, notification_id, category, title, body, url, lang, direction, actions,
                                 priority, collapse_key, created_at, expires_at, state, position, due_at, read_at)
        SELECT {of.id(1, "i")}, 'user-' || {of.padded("i % 6000", 6)}, {of.id(0, f"(i / {EACH})")}, 'NEWS-1', 't', 'b',
               'https://example.org', 'en', 'ltr', '[]', 'high', CASE WHEN i % 3 = 0 THEN 'order:' || i END, {made},
               {made}, CASE WHEN i % 7 = 0 THEN 'archived' ELSE 'active' END, i / 6000 + 1,
               CASE WHEN i % 7 > 0 THEN {made} END, CASE WHEN i % 2 = 0 THEN {made} END {of.numbers(60_000)}""",
        f"""INSERT INTO inbox_counters (user_id, unseen, unread, version, last_position)
        SELECT 'user-' || {user}, 10, 5, 10, 10 {of.numbers(6_000)}""",
        # later steps of the first notifications: some are due, some wait for an event
        f"""INSERT INTO waiting_steps (notification_id, user_id, step, channels, after_seconds, unless, event,
                                   event_key, created_at, due_at, started_at)
        SELECT {of.id(0, f"(i / {EACH})")}, 'user-' || {of.padded("i % 150000", 6)}, 1, '["email"]', 600,
               CASE WHEN i % 4 = 0 THEN 'event' ELSE 'seen' END, CASE WHEN i % 4 = 0 THEN 'paid' END,
               CASE WHEN i % 4 = 0 THEN 'subject order:' || i END, {made},
               CASE WHEN i % 100 = 0 THEN {made} END, CASE WHEN i % 2 = 1 THEN {made} END {of.numbers(60_000)}""",
        f"""INSERT INTO user_limits (user_id, scope, stamps, last_at)
        SELECT 'user-' || {user}, '', '{"{1}" if of is PostgresDialect else "[1]"}', {made} {of.numbers(20_000)}""",
    )
