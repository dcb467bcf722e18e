"""Which entry decides whether a user receives a category on a channel."""

from dataclasses import replace
from itertools import combinations

import pytest

from tidings.model.consent import ConsentSource, evaluate_consent, evaluate_notification, find_allowed_parts
from tidings.model.delivery import SkipReason
from tidings.model.notification import DigestPart
from tidings.model.preference import ANY, Condition, Operator, Preference, build_opt_out, parse_default
from tidings.model.template import Category
from tidings.testing.contracts.samples import make_notification

NEWS = Category("NEWS", "News")
#: entries that apply to NEWS on e-mail about event:9/message:1, the strongest first
BY_STRENGTH = (
    ("NEWS", "email", "event:9/message:1"),
    (ANY, ANY, "event:9/message:1"),
    ("NEWS", "email", "event:9"),
    ("NEWS", ANY, "event:9"),
    (ANY, "email", "event:9"),
    (ANY, ANY, "event:9"),
    ("NEWS", "email", ANY),
    ("NEWS", ANY, ANY),
    (ANY, "email", ANY),
    (ANY, ANY, ANY),
)
DEFAULTS = (("NEWS", "email"), ("NEWS", ANY), (ANY, "email"), (ANY, ANY))


def decide(
    *preferences: Preference,
    category: Category = NEWS,
    defaults: tuple[Preference, ...] = (),
    subject: str | None = "event:9/message:1",
    variables: dict[str, object] | None = None,
) -> tuple[ConsentSource, bool]:
    decision = evaluate_consent(category, "email", preferences, defaults=defaults, subject=subject, variables=variables)
    return decision.deciding.source, decision.is_granted


@pytest.mark.parametrize(
    ("choice", "mandatory", "opt_in", "rule", "skip"),
    [
        (None, False, False, "on by default", None),
        (True, False, False, "turned on by the user", None),
        (False, False, False, None, SkipReason.PREFERENCE_OFF),
        (None, False, True, None, SkipReason.NOT_OPTED_IN),
        (True, False, True, "turned on by the user", None),
        (False, False, True, None, SkipReason.PREFERENCE_OFF),
        (None, True, False, "mandatory", None),
        (False, True, False, "mandatory", None),
        (False, True, True, "mandatory", None),
    ],
)
def test_mandatory_precedes_the_preference_and_the_preference_the_default(
    choice: bool | None, mandatory: bool, opt_in: bool, rule: str | None, skip: SkipReason | None
) -> None:
    category = Category("NEWS", "News", mandatory=mandatory, opt_in=opt_in)
    decision = evaluate_consent(category, "email", [] if choice is None else [Preference("NEWS", "email", choice)])
    assert decision.is_granted is (rule is not None)
    assert (decision.rule if decision.is_granted else decision.skip_reason) == (rule or skip)


@pytest.mark.parametrize(("stronger", "weaker"), list(combinations(BY_STRENGTH, 2)))
@pytest.mark.parametrize("enabled", [True, False])
def test_c17_the_stronger_entry_decides_and_the_others_are_named(
    stronger: tuple[str, str, str], weaker: tuple[str, str, str], enabled: bool
) -> None:
    winner = Preference(stronger[0], stronger[1], enabled, stronger[2])
    loser = Preference(weaker[0], weaker[1], not enabled, weaker[2])
    for entries in ([winner, loser], [loser, winner]):
        decision = evaluate_consent(NEWS, "email", entries, subject="event:9/message:1")
        assert (decision.deciding.preference, decision.is_granted) == (winner, enabled)
        assert [entry.preference for entry in decision.beaten] == [loser, None]
        assert decision.beaten[-1].source is ConsentSource.CATEGORY


@pytest.mark.parametrize(("stronger", "weaker"), list(combinations(DEFAULTS, 2)))
def test_c17_the_user_precedes_the_installation_and_that_the_category(
    stronger: tuple[str, str], weaker: tuple[str, str]
) -> None:
    defaults = (Preference(*weaker, enabled=True), Preference(*stronger, enabled=False))
    assert decide(defaults=defaults) == (ConsentSource.INSTALLATION, False)
    assert decide(Preference(ANY, ANY, True), defaults=defaults) == (ConsentSource.USER, True)
    duty = Category("NEWS", "News", mandatory=True)
    decision = evaluate_consent(duty, "email", [Preference("NEWS", "email", False)], defaults=defaults)
    assert (decision.deciding.source, decision.is_granted) == (ConsentSource.MANDATORY, True)
    sources = [entry.source.value for entry in decision.beaten]
    assert sources == ["user", "installation", "installation", "category"]
    off = evaluate_consent(NEWS, "email", [], defaults=defaults)
    assert off.skip_reason is SkipReason.NOT_OPTED_IN


@pytest.mark.parametrize("mandatory", [("email",), frozenset({"email"})])
def test_c18_only_the_mandatory_channels_of_a_category_are_mandatory(mandatory: tuple[str] | frozenset[str]) -> None:
    category = Category("NEWS", "News", mandatory=mandatory)
    off = [Preference("NEWS", ANY, False)]
    assert evaluate_consent(category, "email", off).is_granted
    assert evaluate_consent(category, "webpush", off).skip_reason is SkipReason.PREFERENCE_OFF
    assert not category.is_mandatory_everywhere


@pytest.mark.parametrize("choice", [True, False])
@pytest.mark.parametrize("opt_in", [True, False])
def test_c20_a_default_changes_who_has_not_chosen_and_nobody_else(choice: bool, opt_in: bool) -> None:
    category = Category("NEWS", "News", opt_in=opt_in)
    for default in (True, False):
        defaults = (Preference(ANY, "email", default),)
        assert decide(Preference("NEWS", "email", choice), category=category, defaults=defaults)[1] is choice
        assert decide(category=category, defaults=defaults)[1] is default


def test_c21_a_new_category_and_a_new_channel_inherit_the_users_choice() -> None:
    no_mail = [Preference(ANY, "email", False)]
    assert not evaluate_consent(Category("NEW", "New"), "email", no_mail).is_granted
    assert evaluate_consent(Category("NEW", "New"), "sms", no_mail).is_granted
    assert not evaluate_consent(NEWS, "carrier-pigeon", [Preference("NEWS", ANY, False)]).is_granted


@pytest.mark.parametrize(
    ("subject", "is_muted"),
    [("event:9", True), ("event:9/message:1", True), ("event:90", False), ("event:8", False), (None, False)],
)
def test_c24_muting_an_object_mutes_what_is_below_it_and_nothing_else(subject: str | None, is_muted: bool) -> None:
    muted = Preference(ANY, ANY, False, "event:9")
    assert decide(Preference("NEWS", "email", True), muted, subject=subject)[1] is not is_muted


def test_c24_one_object_can_be_on_while_its_category_is_off() -> None:
    off, on = Preference("NEWS", ANY, False), Preference("NEWS", ANY, True, "event:9")
    assert decide(off, on, subject="event:9") == (ConsentSource.USER, True)
    assert decide(off, on, subject="event:8") == (ConsentSource.USER, False)


@pytest.mark.parametrize(
    ("operator", "met"),
    [
        ("eq", [5]),
        ("ne", [4.99, 6]),
        ("lt", [4.99]),
        ("lte", [4.99, 5]),
        ("gt", [6]),
        ("gte", [5, 6]),
    ],
)
def test_c24_a_condition_compares_a_variable(operator: str, met: list[float]) -> None:
    entry = Preference("NEWS", ANY, True, condition=Condition("amount", Operator(operator), 5))
    for amount in (4.99, 5, 6):
        assert decide(entry, variables={"amount": amount}) == (ConsentSource.USER, amount in met)


@pytest.mark.parametrize("variables", [{}, {"amount": "6"}, {"amount": None}, {"amount": True}, {"other": 6}])
def test_c24_an_entry_with_a_condition_that_cannot_be_tested_does_not_apply(variables: dict[str, object]) -> None:
    entry = Preference("NEWS", "email", True, condition=Condition("amount", Operator.GREATER, 5))
    assert decide(entry, variables=variables) == (ConsentSource.CATEGORY, True)
    assert decide(entry, Preference(ANY, "email", False), variables=variables) == (ConsentSource.USER, False)


def test_c24_a_text_is_compared_with_a_text() -> None:
    entry = Preference("NEWS", "email", True, condition=Condition("city", Operator.EQUAL, "Bern"))
    assert decide(entry, variables={"city": "Bern"})[1]
    assert not decide(entry, variables={"city": "Genf"})[1]


def test_c17_the_recorded_decision_names_entry_condition_and_value() -> None:
    entry = Preference("NEWS", ANY, True, "event:9", Condition("text", Operator.EQUAL, "x"))
    decision = evaluate_consent(
        NEWS,
        "email",
        [entry, Preference(ANY, "email", True)],
        subject="event:9",
        variables={"text": "a\0" + "b" * 200},
    )
    stated = decision.to_json()
    assert stated == {
        "entry": {
            "source": "user",
            "category": "NEWS",
            "object": "event:9",
            "enabled": False,
            "condition": {"variable": "text", "operator": "eq", "value": "x"},
            # PostgreSQL stores no NUL
            "actual": "a\N{REPLACEMENT CHARACTER}" + "b" * 98,
        },
        "beaten": [
            {"source": "user", "channel": "email", "enabled": True},
            {"source": "category", "enabled": True},
        ],
    }


def test_c25_an_unsubscription_stops_all_optional_mail_of_the_category_and_no_mandatory_mail() -> None:
    stored = [
        Preference("NEWS", "email", True),
        Preference("NEWS", ANY, True, "event:9"),
        Preference(ANY, "email", True, "event:9/message:1"),
        Preference("NEWS", "webpush", True, "event:8"),
        Preference("OTHER", "email", True, "event:7"),
    ]
    off = build_opt_out("NEWS", "email", stored)
    assert off == [
        Preference("NEWS", "email", False),
        Preference("NEWS", "email", False, "event:9"),
        Preference("NEWS", "email", False, "event:9/message:1"),
    ]
    by_key = {entry.key: entry for entry in (*stored, *off)}
    after = list(by_key.values())
    for subject in (None, "event:7", "event:8", "event:9", "event:9/message:1"):
        assert not evaluate_consent(NEWS, "email", after, subject=subject).is_granted
        for category in (Category("RESET", "Reset", mandatory=True), Category("NEWS", "News", mandatory=("email",))):
            assert evaluate_consent(category, "email", after, subject=subject).is_granted
    assert evaluate_consent(NEWS, "webpush", after, subject="event:9").is_granted


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("NEWS=off", Preference("NEWS", ANY, False)),
        ("NEWS:email=on", Preference("NEWS", "email", True)),
        ("*:sms=off", Preference(ANY, "sms", False)),
        ("*=off", Preference(ANY, ANY, False)),
        (" NEWS : email = off ", Preference("NEWS", "email", False)),
    ],
)
def test_a_default_of_the_installation_is_read(text: str, entry: Preference) -> None:
    assert parse_default(text) == entry


@pytest.mark.parametrize("text", ["NEWS", "NEWS=", "NEWS=no", "=off", ":email=off", "NEWS:=off", ""])
def test_a_default_of_another_form_is_rejected_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"an example is NEW_EVENT:email=off"):
        parse_default(text)


SUBJECTS = ("event:9", "event:9/message:1", "event:9/", "event:9//x", "event:90", "/event:9", "event:8/message:1", None)


@pytest.mark.parametrize("keys", list(combinations(("event:9", "event:9/message:1", "event:9/", "event:8", ANY), 2)))
@pytest.mark.parametrize("is_first_on", [True, False])
def test_c9_each_part_of_a_digest_is_decided_as_its_notification(keys: tuple[str, str], is_first_on: bool) -> None:
    entries = [Preference("NEWS", ANY, is_first_on, keys[0]), Preference(ANY, "email", not is_first_on, keys[1])]
    parts = [DigestPart(f"n{number}", subject, {}) for number, subject in enumerate(SUBJECTS)]
    digest = replace(make_notification(), parts=parts)
    one_by_one = [evaluate_consent(NEWS, "email", entries, subject=part.subject, variables={}) for part in parts]
    allowed = [part for part, decision in zip(parts, one_by_one, strict=True) if decision.is_granted]
    assert list(find_allowed_parts(digest, NEWS, "email", entries)) == allowed
    found = evaluate_notification(digest, NEWS, "email", entries)
    assert found == next((one for one in one_by_one if one.is_granted), one_by_one[0])


def test_the_entries_of_a_user_are_not_all_read_for_each_part(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Preference] = []
    is_for = Preference.is_for

    def record(entry: Preference, category: str, channel: str, subject: str | None) -> bool:
        read.append(entry)
        return is_for(entry, category, channel, subject)

    monkeypatch.setattr(Preference, "is_for", record)
    entries = [Preference("NEWS", ANY, False, f"event:{number}") for number in range(300)]
    parts = [DigestPart(f"n{number}", f"event:{number}/message:1", {}) for number in range(300)]
    digest = replace(make_notification(), parts=parts)
    decision = evaluate_notification(digest, NEWS, "email", entries)
    assert decision is not None
    assert decision.skip_reason is SkipReason.PREFERENCE_OFF
    assert find_allowed_parts(digest, NEWS, "email", entries) == []
    assert len(read) == 2 * len(parts), "the one that is about the part"
