"""Of the channels that everything else permits, one is used: that on which the user was most engaged."""

from collections.abc import Mapping, Sequence

from tidings.model.channel_engagement import ENGAGEMENT_PERIOD, ChannelEngagement, select_channel
from tidings.model.decision import Skip
from tidings.model.delivery import SkipReason


def select_by_engagement(permitted: Sequence[str], engagement: Mapping[str, ChannelEngagement]) -> Mapping[str, Skip]:
    """Return the skips of all permitted channels but one.

    permitted: in the order that decides for a user without engagement. engagement: channel → what the user did. It is
    asked when a recipient is planned, and not again: the choice stays while the message waits.
    """
    if len(permitted) < 2:
        return {}
    selected = select_channel(permitted, engagement)
    counts = {name: engagement[name].count for name in permitted if name in engagement}
    detail = {"selected": selected, "days": ENGAGEMENT_PERIOD.days, "counts": counts}
    return {name: Skip(SkipReason.NOT_MOST_ENGAGED, detail) for name in permitted if name != selected}
