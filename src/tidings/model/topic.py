"""Topics: names that users subscribe to, for the audience kind `topic`."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

#: a name forms one URL path segment
TOPIC_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}", re.ASCII)
MAX_TOPICS_PER_USER: Final = 1_000


@dataclass(frozen=True, slots=True)
class TopicSubscription:
    """A topic of a user."""

    topic: str
    created_at: datetime
