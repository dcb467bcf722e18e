"""What counts as a change of an event, most important first (MISSION M1)."""

from tidings.flow.detect.rules import Field, Rule, RuleSet, becomes
from tidings.model.change import ValueKind
from tidings.model.priority import Priority

RULES = RuleSet(
    (
        Rule(
            "cancellation",
            (Field("status", ValueKind.STATUS),),
            Priority.URGENT,
            when=becomes("status", "CANCELLED"),
        ),
        Rule(
            "time_change",
            (Field("startDate", ValueKind.INSTANT), Field("endDate", ValueKind.INSTANT)),
            Priority.HIGH,
        ),
        Rule("venue_change", (Field("venue"), Field("address")), Priority.HIGH),
        Rule("status_change", (Field("status", ValueKind.STATUS),), Priority.NORMAL),
        Rule(
            "other",
            (Field("title"), Field("description"), Field("city"), Field("hostId")),
            Priority.LOW,
            significant=False,
        ),
    )
)
