"""The sources of settings: flags, environment, `.env` and `tidings.toml`, each read into a mapping of raw values."""

import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path

from dotenv import dotenv_values
from pydantic import BaseModel, ValidationError

from tidings.errors import ConfigError

_PREFIX = "TIDINGS_"
#: variables without the prefix, supported for compatibility
_LEGACY_NAMES = {"FRONTEND_URL": "frontend_url", "WEBSOCKET_PORT": "websocket_port"}

#: (data folder, name) → the generated secret, empty if there is none
SecretFinder = Callable[[Path, str], str]


def variable_name(field: str) -> str:
    """Return the environment variable of a setting."""
    return _PREFIX + field.upper()


def read_layers(
    model: type[BaseModel],
    secret_names: tuple[str, ...],
    flags: Mapping[str, object],
    folder: Path,
    environ: Mapping[str, str] | None,
) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield (origin, setting → raw value) for each source, strongest first.

    Raises ConfigError for an unreadable file, an unknown name in `tidings.toml`, or a secret that is set both directly
    and as `…_FILE`.
    """
    fields = model.model_fields
    yield "flag", {name: value for name, value in flags.items() if value is not None}
    yield "environment", _read_environment(fields, secret_names, os.environ if environ is None else environ)
    dotenv = folder / ".env"
    yield ".env", _read_environment(fields, secret_names, _read_dotenv(dotenv)) if dotenv.is_file() else {}
    toml = folder / "tidings.toml"
    yield "tidings.toml", _read_toml(toml, fields) if toml.is_file() else {}


#: short forms of settings of channels
CHANNEL_SHORT_NAMES = frozenset(
    {
        *("TIDINGS_SMTP_URL", "TIDINGS_SMS_URL", "TIDINGS_EMAIL_FROM"),
        *("TIDINGS_VAPID_SUBJECT", "TIDINGS_PUSH_EXTRA_HOSTS", "TIDINGS_PUSH_CA_FILE"),
    }
)


def find_unknown_variables(model: type[BaseModel], environ: Mapping[str, str]) -> list[str]:
    """Return the `TIDINGS_*` variables that are not settings of this version, such as misspelt ones.

    Channels and packs check the settings of their own, `TIDINGS_<NAME>__…`.
    """
    known = {variable_name(field) for field in model.model_fields} | CHANNEL_SHORT_NAMES
    prefixes = tuple(f"{_PREFIX}{name.upper()}__" for name in _list_plugins())
    return sorted(
        name
        for name in environ
        if name.startswith(_PREFIX)
        and not name.startswith(prefixes)
        and name not in known
        and name.removesuffix("_FILE") not in known
    )


def _read_environment(
    fields: Mapping[str, object], secret_names: tuple[str, ...], environ: Mapping[str, str]
) -> Mapping[str, object]:
    values: dict[str, object] = {
        field: environ[name] for name, field in _LEGACY_NAMES.items() if environ.get(name) and field in fields
    }
    # an empty variable counts as unset, because compose files and CI pass empty variables for "not configured"
    values |= {field: environ[variable_name(field)] for field in fields if environ.get(variable_name(field))}
    for field in secret_names:
        file = environ.get(f"{variable_name(field)}_FILE")
        if not file:
            continue
        if field in values:
            raise ConfigError(variable_name(field), f"is set, and so is {variable_name(field)}_FILE; unset one of them")
        values[field] = _read_secret_file(f"{variable_name(field)}_FILE", Path(file))
    return values


def _read_secret_file(name: str, path: Path) -> str:
    try:
        value = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(name, f"cannot read {path}: {error}; set it to the path of a readable text file") from error
    if not value:
        raise ConfigError(name, f"{path} is empty; write the value into it")
    return value


def _read_dotenv(path: Path) -> Mapping[str, str]:
    try:
        return {name: value for name, value in dotenv_values(path, interpolate=False).items() if value}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(".env", f"cannot read {path}: {error}; make it a readable text file") from error


def _read_toml(path: Path, fields: Mapping[str, object]) -> Mapping[str, object]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError("tidings.toml", f"cannot read {path}: {error}; correct the file") from error
    plugins = _list_plugins()
    for name in values:
        is_of_plugin = variable_name(name) in CHANNEL_SHORT_NAMES or name.partition("__")[0] in plugins
        if name not in fields and not is_of_plugin:
            raise ConfigError("tidings.toml", f"{name!r} is not a setting; known are: {', '.join(fields)}")
    return {name: value for name, value in values.items() if name in fields}


def _list_plugins() -> set[str]:
    """Return the names of the installed channels and packs, which read their own settings."""
    return {entry.name for group in ("tidings.channels", "tidings.packs") for entry in entry_points(group=group)}


def to_config_error(error: ValidationError) -> ConfigError:
    """Return the error of the first invalid setting, with the fix."""
    first = error.errors(include_url=False, include_input=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "settings"
    # Pydantic prefixes the messages of our own validators, which include the fix
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "is not a setting"
    elif first["type"] != "value_error":
        message = f"{message[:1].lower()}{message[1:]}; correct it or unset it to use the default"
    return ConfigError(variable_name(name), message)
