"""The triggers that an operator declares in a TOML file (`TIDINGS_TRIGGERS_FILE`), besides those of the packs."""

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from tidings.errors import ConfigError
from tidings.model.priority import Priority
from tidings.model.subject import MAX_VERSION
from tidings.model.trigger import Trigger

SETTING = "TIDINGS_TRIGGERS_FILE"


class _TriggerTable(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    event_type: Annotated[str, Field(min_length=1, max_length=500)]
    template: Annotated[str, Field(min_length=1)]
    audience: dict[str, JsonValue]
    variables: dict[str, str] = Field(default_factory=dict)
    condition: str | None = None
    subject: str | None = None
    subject_version: Annotated[int, Field(ge=0, le=MAX_VERSION)] | None = None
    priority: Priority | None = None


class _TriggerFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    trigger: list[_TriggerTable] = Field(default_factory=list)


def load_trigger_file(path: Path | None) -> list[Trigger]:
    """Return the triggers of a file, none without a file. Raises ConfigError naming the table, the key and the fix."""
    if path is None:
        return []
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(SETTING, f"cannot read {path}: {error}; correct the file or its path") from error
    try:
        tables = _TriggerFile.model_validate(content).trigger
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part + 1) if isinstance(part, int) else part for part in first["loc"])
        raise ConfigError(SETTING, f"{path}: {place}: {first['msg']}; correct the file") from error
    return [Trigger(**table.model_dump()) for table in tables]
