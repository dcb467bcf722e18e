"""A statement that ends deliveries also starts the steps after them: it calls `EndedDeliveries`, or is named here."""

import re
from pathlib import Path

from tidings.model.delivery import FINAL_STATES

REPOSITORIES = Path(__file__).parents[2] / "src" / "tidings" / "stores" / "repositories"
#: file → what starts the steps instead
EXEMPT = {
    "delivery_mapping.py": "`Pipeline.record`, with the outcomes",
    "dead_letters.py": "nothing: a dead letter had ended before",
    "steps.py": "the cancellation of a step, which leaves the next one its time",
}
_STATES = "|".join(state.name for state in FINAL_STATES)
#: an UPDATE of deliveries with a final state among its values
ENDING = re.compile(rf"update\(deliveries\)(?:(?!\n\n).)*?\bstate=[^\n]*DeliveryState\.(?:{_STATES})\b", re.DOTALL)


def test_whoever_ends_deliveries_starts_the_steps_after_them() -> None:
    sources = {path.name: path.read_text() for path in REPOSITORIES.glob("*.py")}
    ending = {name for name, source in sources.items() if ENDING.search(source)}
    assert {"delivery_claims.py", "push_subscriptions.py", "dead_letters.py", "steps.py"} <= ending
    calling = {name for name in ending if "ended_deliveries.record(" in sources[name]}
    assert ending - calling <= EXEMPT.keys()
