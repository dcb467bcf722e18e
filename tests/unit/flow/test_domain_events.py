"""Triggers: which notifications an event causes, and faults of declarations that are found at the start."""

from pathlib import Path

import pytest

from tidings.errors import ConfigError, ValidationFailed
from tidings.flow.accept.domain_events import build_requests
from tidings.flow.catalog import Catalog
from tidings.model.audience import NamedSet, Union, users
from tidings.model.priority import Priority
from tidings.model.subject import SubjectRequest
from tidings.model.trigger import DomainEvent, Trigger
from tidings.packs import core
from tidings.packs.discovery import check_triggers
from tidings.packs.trigger_file import load_trigger_file
from tidings.ports.pack import Pack
from tidings.rendering.minijinja_renderer import MinijinjaRenderer

EVENT = DomainEvent("e-1", "/shop", "order.created", data={"user": "ana", "keepers": ["ben", "eve"], "total": 5})
RENDERER = MinijinjaRenderer({}, "https://shop.example")
AUDIENCE = {"kind": "users", "userIds": ["=data.user"]}


def test_expressions_fill_audience_variables_and_subject() -> None:
    trigger = Trigger(
        "order.created",
        "MESSAGE",
        {"or": [AUDIENCE, {"kind": "users", "userIds": "=data.keepers"}]},
        {"title": "'Order of ' ~ data.user", "body": "source"},
        subject="'order:' ~ id",
        subject_version=3,
        priority=Priority.URGENT,
    )
    [request] = build_requests(EVENT, [trigger], RENDERER)
    assert request.audience == Union((users("ana"), users("ben", "eve")))
    assert request.variables == {"title": "Order of ana", "body": "/shop"}
    assert request.subject == SubjectRequest("order:e-1", 3)
    assert request.priority is Priority.URGENT


@pytest.mark.parametrize(("condition", "number"), [(None, 1), ("data.total > 4", 1), ("data.total > 5", 0)])
def test_a_condition_decides(condition: str | None, number: int) -> None:
    trigger = Trigger("order.created", "MESSAGE", {"kind": "everyone"}, condition=condition)
    requests = build_requests(EVENT, [trigger], RENDERER)
    assert [one.audience for one in requests] == [NamedSet("everyone")] * number


@pytest.mark.parametrize("expression", ["data.nothing", "data.nothing.more", "nothing", "data.total + 'x'"])
def test_an_expression_that_has_no_value_names_itself(expression: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        build_requests(EVENT, [Trigger("x", "MESSAGE", AUDIENCE, {"title": expression})], RENDERER)
    [error] = refused.value.field_errors
    assert error.field == "data"
    assert expression in error.message


@pytest.mark.parametrize(
    ("trigger", "fault"),
    [
        (Trigger("x", "MESAGE", AUDIENCE), "unknown template MESAGE"),
        (Trigger("x", "MESSAGE", AUDIENCE, {"title": "data."}), "variable title"),
        (Trigger("x", "MESSAGE", AUDIENCE, condition="data.a >"), "condition"),
        (Trigger("x", "MESSAGE", AUDIENCE, subject="'a"), "subject"),
        (Trigger("x", "MESSAGE", {"kind": "users", "userIds": ["=data.("]}), "audience"),
    ],
)
def test_a_fault_of_a_declaration_is_found_at_the_start(trigger: Trigger, fault: str) -> None:
    catalog = Catalog.from_packs([core.pack], channels=[], known_channels=[], triggers=[trigger])
    with pytest.raises(ConfigError, match=f"trigger of x: {fault}"):
        check_triggers(catalog, RENDERER)


def test_triggers_of_packs_and_of_the_operator_are_joined() -> None:
    of_pack, of_operator = Trigger("x", "MESSAGE", AUDIENCE), Trigger("x", "MESSAGE", {"kind": "everyone"})
    packs = [core.pack, Pack("shop", triggers=(of_pack,))]
    catalog = Catalog.from_packs(packs, channels=[], known_channels=[], triggers=[of_operator])
    assert catalog.triggers == {"x": [of_pack, of_operator]}


def test_a_file_declares_triggers(tmp_path: Path) -> None:
    file = tmp_path / "triggers.toml"
    file.write_text('[[trigger]]\nevent_type = "x"\ntemplate = "MESSAGE"\naudience = { kind = "everyone" }\n')
    assert load_trigger_file(file) == [Trigger("x", "MESSAGE", {"kind": "everyone"})]
    assert load_trigger_file(None) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[[trigger]]\n", "trigger.1.event_type: Field required"),
        ('[[trigger]]\nevent_type = "x"\ntemplate = "M"\naudience = {}\npriority = "hi"\n', "trigger.1.priority"),
        ("[[triggers]]\n", "triggers: Extra inputs"),
        ("[[", "cannot read"),
    ],
)
def test_a_fault_of_the_file_is_named(text: str, fault: str, tmp_path: Path) -> None:
    file = tmp_path / "triggers.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=f"TIDINGS_TRIGGERS_FILE.*{fault}"):
        load_trigger_file(file)
