"""Checks the steps of requests and templates. Pure."""

from collections.abc import Iterator, Sequence

from tidings.errors import FieldError
from tidings.model.plan_options import Step


def check_steps(steps: Sequence[Step], known_channels: Sequence[str], field: str) -> list[FieldError]:
    """Return what is wrong with steps. field: their path, e.g. `options.steps`."""
    return list(_iter_errors(steps, known_channels, field))


def _iter_errors(steps: Sequence[Step], known_channels: Sequence[str], field: str) -> Iterator[FieldError]:
    used: dict[str, int] = {}
    for index, step in enumerate(steps):
        path = f"{field}[{index}]"
        if index == 0 and step.after_seconds:
            yield FieldError(f"{path}.afterSeconds", "the first step does not wait; use options.delay or sendAt")
        if index == 0 and step.unless is not None:
            yield FieldError(f"{path}.unless", "nothing precedes the first step; give the condition to a later one")
        for position, channel in enumerate(step.channels):
            name = f"{path}.channels[{position}]"
            if channel not in known_channels:
                yield FieldError(name, f"unknown channel {channel!r}; known are {', '.join(known_channels)}")
            if used.setdefault(channel, index) != index:
                yield FieldError(
                    name, f"step {used[channel]} uses {channel} already; a notification is sent once per channel"
                )
