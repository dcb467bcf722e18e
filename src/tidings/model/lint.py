"""Findings of the lint of templates: what an author should know before a message is sent."""

from enum import StrEnum

import msgspec


class LintLevel(StrEnum):
    """How much a finding matters, the least first."""

    #: a measure, such as the number of segments
    INFO = "info"
    WARNING = "warning"
    #: messages are not sent, or a rule forbids them
    ERROR = "error"


class LintFinding(msgspec.Struct, frozen=True):
    """What a channel finds in one rendered message."""

    #: what was measured, such as `segments`; the worst finding of each code is kept
    code: str
    level: LintLevel
    message: str
    #: the higher, the worse among the findings of a code
    size: int = 0


class TemplateFinding(msgspec.Struct, frozen=True):
    """The worst finding of a code over the samples and languages of a template."""

    template: str
    channel: str
    #: language of the message
    locale: str
    finding: LintFinding
