"""The settings of a channel or a pack, from `TIDINGS_<NAME>__…` variables, `.env` and `tidings.toml`.

A Pydantic model checks them. Lists are separated by commas. A secret can be in a file named by `…_FILE`. An empty
variable counts as unset. In `tidings.toml` the names are lower case without `TIDINGS_`, or keys of a table of the
channel or pack.
"""

import os
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from dotenv import dotenv_values
from pydantic import BaseModel, ValidationError

from tidings.config.settings import SettingSource
from tidings.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)


def load_plugin_settings(
    model: type[Model],
    prefix: str,
    *,
    aliases: Mapping[str, str] | None = None,
    values: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Model:
    """Return the settings of a channel or a pack.

    A source goes before the next one: values, environment, `.env`, `tidings.toml`. prefix: `TIDINGS_SMS__`; aliases:
    further variable name → field; values: variable name → value, given by the program; environ: default os.environ;
    folder: the folder of the files, default: the current one. Raises ConfigError naming the variable and the fix.
    """
    found: dict[str, object] = {}
    names: dict[str, str] = {}
    for _, layer in _read_layers(prefix, aliases or {}, values, environ, folder):
        own: dict[str, str] = {}
        for name, field, text in _list_variables(layer, prefix, aliases or {}, model.model_fields):
            known = model.model_fields.get(field)
            if known is None:
                raise ConfigError(name, f"is not a setting; known are: {', '.join(model.model_fields)}")
            if field in own:
                raise ConfigError(name, f"is set, and so is {own[field]}; unset one of them")
            own[field] = name
            if field not in names:
                found[field] = _split_list(text) if "tuple" in str(known.annotation) else text
        names = {**own, **names}
    try:
        return model.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = str(first["loc"][0]) if first["loc"] else ""
        message = first["msg"].removeprefix("Value error, ")
        name = names.get(field, prefix + field.upper())
        raise ConfigError(
            name, f"{message[:1].lower()}{message[1:]}; correct it, or unset it to use the default"
        ) from None


def list_plugin_settings(
    settings: BaseModel,
    prefix: str,
    *,
    aliases: Mapping[str, str] | None = None,
    values: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Sequence[SettingSource]:
    """Return each setting with its variable, displayable value and source, for `tidings doctor`.

    settings: as `load_plugin_settings` returned them for the same arguments. A field that is not set is named by its
    alias, if it has one. Secrets must be fields of the type SecretStr.
    """
    origins: dict[str, tuple[str, str]] = {}
    for origin, layer in _read_layers(prefix, aliases or {}, values, environ, folder):
        for name, field, _ in _list_variables(layer, prefix, aliases or {}, type(settings).model_fields):
            origins.setdefault(field, (name, origin))
    short_names = {field: name for name, field in (aliases or {}).items()}
    listed = []
    for field in type(settings).model_fields:
        name, origin = origins.get(field, (short_names.get(field, prefix + field.upper()), "default"))
        value = getattr(settings, field)
        text = ",".join(map(str, value)) or "(none)" if isinstance(value, tuple) else str(value)
        listed.append(SettingSource(name, "(unset)" if value is None else text, origin))
    return listed


def _read_layers(
    prefix: str,
    aliases: Mapping[str, str],
    values: Mapping[str, str] | None,
    environ: Mapping[str, str] | None,
    folder: Path | None,
) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield (source, variable → text), strongest first."""
    folder = folder or Path()
    yield "flag", values or {}
    yield "environment", os.environ if environ is None else environ
    yield ".env", _read_dotenv(folder / ".env")
    yield "tidings.toml", _read_toml(folder / "tidings.toml", prefix, aliases)


def _list_variables(
    layer: Mapping[str, str], prefix: str, aliases: Mapping[str, str], fields: Collection[str]
) -> list[tuple[str, str, str]]:
    """Return (variable, field, text) of the variables of one source."""
    found: list[tuple[str, str, str]] = []
    for name, text in layer.items():
        if not text or not (name.startswith(prefix) or {name, name.removesuffix("_FILE")} & aliases.keys()):
            continue
        field = aliases.get(name, name.removeprefix(prefix).lower())
        if field not in fields and name.endswith("_FILE"):
            plain = name.removesuffix("_FILE")
            field = aliases.get(plain, plain.removeprefix(prefix).lower())
            text = _read_secret_file(name, Path(text))
        found.append((name, field, text))
    return found


def _split_list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _read_secret_file(name: str, path: Path) -> str:
    try:
        value = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(name, f"cannot read {path}: {error}; set it to the path of a readable text file") from error
    if not value:
        raise ConfigError(name, f"{path} is empty; write the value into it")
    return value


def _read_dotenv(path: Path) -> Mapping[str, str]:
    if not path.is_file():
        return {}
    try:
        return {name: value for name, value in dotenv_values(path, interpolate=False).items() if value}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(".env", f"cannot read {path}: {error}; make it a readable text file") from error


def _read_toml(path: Path, prefix: str, aliases: Collection[str]) -> Mapping[str, str]:
    """Return the values of one channel or pack as variables."""
    if not path.is_file():
        return {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError("tidings.toml", f"cannot read {path}: {error}; correct the file") from error
    found: dict[str, str] = {}
    for key, value in values.items():
        name = f"TIDINGS_{key.upper()}"
        if isinstance(value, dict) and f"{name}__" == prefix:
            found |= {prefix + field.upper(): _to_text(one) for field, one in value.items()}
        elif name.startswith(prefix) or name in aliases:
            found[name] = _to_text(value)
    return found


def _to_text(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(_to_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
