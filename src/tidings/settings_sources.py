"""Where settings come from: flags, environment, `.env` and `tidings.toml`, each read into a plain mapping."""

import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from dotenv import dotenv_values
from pydantic import BaseModel, ValidationError

from tidings.errors import ConfigError

_PREFIX = "TIDINGS_"
#: names without our prefix that the systems we replace used
_OLD_NAMES = {"FRONTEND_URL": "frontend_url"}

#: data folder, secret's name → the secret, empty if there is none
SecretFinder = Callable[[Path, str], str]


def variable(field: str) -> str:
    """Return the environment variable of a setting."""
    return _PREFIX + field.upper()


def layers(
    model: type[BaseModel],
    secret_names: tuple[str, ...],
    flags: Mapping[str, object],
    folder: Path,
    environ: Mapping[str, str] | None,
) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield (origin, setting → raw value) for each source, strongest first.

    Raises ConfigError for a file that cannot be read, an unknown name in `tidings.toml`, or a secret given twice.
    """
    fields = model.model_fields
    yield "flag", {name: value for name, value in flags.items() if value is not None}
    yield "environment", _from_variables(fields, secret_names, os.environ if environ is None else environ)
    dotenv = folder / ".env"
    yield ".env", _from_variables(fields, secret_names, _dotenv(dotenv)) if dotenv.is_file() else {}
    toml = folder / "tidings.toml"
    yield "tidings.toml", _toml(toml, fields) if toml.is_file() else {}


def unknown_variables(model: type[BaseModel], environ: Mapping[str, str]) -> list[str]:
    """Return `TIDINGS_*` variables that no setting of this version reads, e.g. misspelt ones."""
    known = {variable(field) for field in model.model_fields}
    return sorted(
        name
        for name in environ
        if name.startswith(_PREFIX) and name not in known and name.removesuffix("_FILE") not in known
    )


def _from_variables(
    fields: Mapping[str, object], secret_names: tuple[str, ...], environ: Mapping[str, str]
) -> Mapping[str, object]:
    found: dict[str, object] = {
        field: environ[name] for name, field in _OLD_NAMES.items() if environ.get(name) and field in fields
    }
    # An empty variable counts as unset: compose files and CI pass empty ones for "not configured".
    found |= {field: environ[variable(field)] for field in fields if environ.get(variable(field))}
    for field in secret_names:
        file = environ.get(f"{variable(field)}_FILE")
        if not file:
            continue
        if field in found:
            raise ConfigError(variable(field), f"is given, and {variable(field)}_FILE too; unset one of them")
        found[field] = _secret(f"{variable(field)}_FILE", Path(file))
    return found


def _secret(name: str, path: Path) -> str:
    try:
        value = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(name, f"cannot read {path}: {error}; name a readable text file") from error
    if not value:
        raise ConfigError(name, f"{path} is empty; put the value into it")
    return value


def _dotenv(path: Path) -> Mapping[str, str]:
    try:
        return {name: value for name, value in dotenv_values(path, interpolate=False).items() if value}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(".env", f"cannot read {path}: {error}; make it a readable text file") from error


def _toml(path: Path, fields: Mapping[str, object]) -> Mapping[str, object]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError("tidings.toml", f"cannot read {path}: {error}; correct the file") from error
    for name in values:
        if name not in fields:
            raise ConfigError("tidings.toml", f"{name!r} is not a setting; known are: {', '.join(fields)}")
    return values


def config_error(error: ValidationError) -> ConfigError:
    """Return the first thing wrong, naming the setting and the fix."""
    first = error.errors(include_url=False, include_input=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "settings"
    # Our own validators phrase the whole sentence; Pydantic prefixes it.
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "is not a setting"
    elif first["type"] != "value_error":
        message = f"{message[:1].lower()}{message[1:]}; correct it or unset it to use the default"
    return ConfigError(variable(name), message)
