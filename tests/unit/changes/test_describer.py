"""Texts of changes: localised, brief when the day is the same, and without errors for any input."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tidings.changes.describer import FieldTranslations, make_change_formatter, serialize_changes
from tidings.localization.dates import format_local_instant
from tidings.model.change import FieldChange, ValueKind
from tidings.packs.events.translations import TRANSLATIONS, format_changes

LANGUAGES = ("en", "de", "fr", "es", "it", "pt", "nl")


def moved(old: str | None, new: str | None, field: str = "startDate") -> list[dict[str, str | None]]:
    return serialize_changes((FieldChange(field, ValueKind.INSTANT, old, new),))


EARLIER_THAT_DAY = moved("2026-11-22T17:00:00Z", "2026-11-22T18:30:00Z")


@pytest.mark.parametrize(
    ("locale", "text"),
    [
        ("en", "Start: Sun, 22 Nov 2026, 18:00 → 19:30"),
        ("en-GB", "Start: Sun, 22 Nov 2026, 18:00 → 19:30"),
        ("en-US", "Start: Sun, Nov 22, 2026, 6:00\u00a0PM → 7:30\u00a0PM"),
        ("de", "Beginn: So., 22. Nov. 2026, 18:00 → 19:30"),
        ("de-CH", "Beginn: So., 22. Nov. 2026, 18:00 → 19:30"),
        ("fr_FR", "Début\u00a0: dim. 22 nov. 2026, 18:00 → 19:30"),
        ("es", "Inicio: dom, 22 nov 2026, 18:00 → 19:30"),
        ("it", "Inizio: dom 22 nov 2026, 18:00 → 19:30"),
        ("pt-BR", "Início: dom., 22 de nov. de 2026 18:00 → 19:30"),
        ("nl", "Begin: zo 22 nov 2026, 18:00 → 19:30"),
        # no translation, but dates in the reader's format
        ("ja", "Start: 2026年11月22日(日) 18:00 → 19:30"),
    ],
)
def test_times_of_one_day_name_the_day_once_in_the_readers_format(locale: str, text: str) -> None:
    assert format_changes(EARLIER_THAT_DAY, locale, "Europe/Berlin") == text


def test_the_readers_time_zone_decides_the_hour_and_the_day() -> None:
    assert format_changes(EARLIER_THAT_DAY, "en", "America/New_York") == "Start: Sun, 22 Nov 2026, 12:00 → 13:30"
    assert format_changes(EARLIER_THAT_DAY, "en", "Asia/Tokyo") == "Start: Mon, 23 Nov 2026, 02:00 → 03:30"


def test_another_day_is_named() -> None:
    text = format_changes(moved("2026-11-22T17:00:00Z", "2026-11-23T17:00:00Z"), "en", "Europe/Berlin")
    assert text == "Start: Sun, 22 Nov 2026, 18:00 → Mon, 23 Nov 2026, 18:00"


@pytest.mark.parametrize("zone", ["UTC", "Atlantis/Capital", "", "Europe", "../etc/passwd", "x" * 5000, "Zür\0ich"])
def test_times_in_utc_show_the_zone(zone: str) -> None:
    """UTC is the default of a profile without a time zone, so the text must show it."""
    assert format_changes(EARLIER_THAT_DAY, "fr", zone).endswith("17:00 → 18:30 UTC")


def test_times_across_a_clock_change_show_their_offsets() -> None:
    change = moved("2026-10-24T17:00:00Z", "2026-10-25T18:30:00Z")
    assert format_changes(change, "de", "Europe/Berlin").endswith("19:00 MESZ → So., 25. Okt. 2026, 19:30 MEZ")
    assert format_changes(change, "en-GB", "Europe/London").endswith("18:00 BST → Sun, 25 Oct 2026, 18:30 GMT")


def test_an_ambiguous_hour_shows_its_offset() -> None:
    assert format_local_instant("2026-10-25T00:30:00Z", "en", "Europe/Berlin") == "Sun, 25 Oct 2026, 02:30 CEST"
    assert format_local_instant("2026-10-25T01:30:00Z", "en", "Europe/Berlin") == "Sun, 25 Oct 2026, 02:30 CET"


def test_a_zone_without_letters_is_named_by_its_offset() -> None:
    # Lord Howe Island moves its clock by half an hour
    assert format_local_instant("2026-04-04T15:15:00Z", "en", "Australia/Lord_Howe").endswith("01:45 UTC+10:30")


def test_missing_values_are_described_in_words() -> None:
    change = [{"field": "venue", "kind": "text", "old": None, "new": "Hall B"}]
    assert format_changes(change, "en", "UTC") == "Venue: no venue yet → Hall B"
    assert format_changes(change, "de-AT", "UTC") == "Ort: noch kein Ort → Hall B"
    assert format_changes(moved(None, "2026-11-22T17:00:00Z", "endDate"), "en", "Europe/Berlin") == (
        "End: open end → Sun, 22 Nov 2026, 18:00"
    )


def test_statuses_are_translated() -> None:
    change = [{"field": "status", "kind": "status", "old": "ACTIVE", "new": "CANCELLED"}]
    assert format_changes(change, "nl", "UTC") == "Status: gaat door → afgelast"


def test_every_change_has_a_line() -> None:
    venue = {"field": "venue", "kind": "text", "old": "Hall A", "new": "Hall B"}
    assert format_changes([*EARLIER_THAT_DAY, venue], "en", "Europe/Berlin").splitlines() == [
        "Start: Sun, 22 Nov 2026, 18:00 → 19:30",
        "Venue: Hall A → Hall B",
    ]


def test_long_texts_and_ids_are_named_not_quoted() -> None:
    changes = [
        {"field": "description", "kind": "text", "old": "a", "new": "b"},
        {"field": "hostId", "kind": "text", "old": "host-1", "new": "host-2"},
        {"field": "title", "kind": "text", "old": "short", "new": "x" * 81},
    ]
    assert format_changes(changes, "en", "UTC") == "Description: changed\nHost: changed\nTitle: changed"


def test_a_field_without_a_translation_is_spelled_out() -> None:
    assert (
        format_changes([{"field": "doorTime", "kind": "text", "old": "6", "new": "7"}], "de", "UTC")
        == "Door time: 6 → 7"
    )


def test_callers_may_use_their_own_words() -> None:
    assert format_changes("Bring an umbrella", "de", "UTC") == "Bring an umbrella"
    assert format_changes(["one", "two"], "de", "UTC") == "one\ntwo"
    assert format_changes(None, "de", "UTC") == ""


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_language_names_every_field_and_status(language: str) -> None:
    english, words = TRANSLATIONS["en"], TRANSLATIONS[language]
    assert set(words.labels) == set(english.labels)
    assert set(words.statuses) == set(english.statuses)
    assert set(words.missing_texts) == set(english.missing_texts)
    assert all((*words.labels.values(), *words.statuses.values(), *words.missing_texts.values(), words.changed_text))


def test_serialized_changes_are_truncated() -> None:
    (change,) = serialize_changes((FieldChange("description", ValueKind.TEXT, "a" * 9_000, None),), max_length=400)
    assert change["old"] == "a" * 399 + "…"
    assert change["new"] is None


def test_translations_require_english() -> None:
    with pytest.raises(KeyError):
        make_change_formatter({"de": FieldTranslations({}, {}, "geändert", "nichts")})


@pytest.mark.parametrize("value", ["2026-11-22", "2026-11-22T18:00:00", "soon", 7, ""])
def test_a_value_that_is_not_an_instant_is_shown_unchanged(value: object) -> None:
    assert format_local_instant(value, "en", "UTC") == str(value)


def test_a_missing_instant_is_empty() -> None:
    assert format_local_instant(None, "en", "UTC") == ""


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.datetimes(timezones=st.timezones()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
tags = st.text(max_size=40) | st.from_regex(r"[a-z]{2,3}([-_][A-Za-z0-9]{1,8}){0,4}", fullmatch=True)
zones = st.text(max_size=40) | st.timezone_keys()
edges = st.sampled_from(["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-11-22T18:00:00Z", "x", None])


@given(junk, tags, zones)
@example({"field": 1, "kind": [], "old": {}, "new": 1.5}, "\ud800", "\ud800")
@example([{"field": "status", "kind": "status", "old": [], "new": {}}], "en", "UTC")
def test_no_input_makes_the_filters_fail(value: object, locale: str, zone: str) -> None:
    assert isinstance(format_changes(value, locale, zone), str)
    assert isinstance(format_local_instant(value, locale, zone), str)


@given(edges, edges, tags, zones)
def test_no_locale_zone_or_instant_makes_a_description_fail(
    old: str | None, new: str | None, locale: str, zone: str
) -> None:
    assert format_changes(moved(old, new), locale, zone)
