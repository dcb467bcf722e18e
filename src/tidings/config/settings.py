"""The settings: one frozen object, read once at startup and passed down. No other module reads the environment.

Precedence, highest first: flags, `TIDINGS_*` variables, `.env`, `tidings.toml`, defaults (docs/reference/settings.md).
"""

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, Field, PrivateAttr, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from tidings.config.quiet_hours import parse_quiet_hours
from tidings.config.secret_files import create_private_file, ensure_secret, read_secret
from tidings.config.sources import SecretFinder, read_layers, to_config_error, variable_name
from tidings.errors import ConfigError
from tidings.model.frequency_cap import parse_frequency_caps
from tidings.model.preference import parse_default
from tidings.model.template import MAX_HOURLY_LIMIT
from tidings.model.user_schedule import ScheduleDefaults

#: settings whose values are never displayed
SECRET_SETTINGS = ("bootstrap_key", "user_secret", "secret_key")
#: displayed without user and password
_URL_SETTINGS = ("database", "redis")
#: settings with a `…_FILE` variant, because they can contain a password
_FILE_SETTINGS = (*SECRET_SETTINGS, *_URL_SETTINGS)
#: minimum length of secrets, in characters, if the server is reachable from other machines
MIN_PUBLIC_SECRET = 16
#: an origin in ASCII serialization. Apps in a web view have schemes of their own
_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?:[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::(?P<port>\d{1,5}))?"
)


def _split_commas(value: object) -> object:
    """Split `a, b` into a tuple. Other values, such as lists from TOML, pass unchanged."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


CommaList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_commas)]


class Role(StrEnum):
    """The role of a process. It determines which loops and connections the process opens."""

    #: API and worker in one process
    SERVE = "serve"
    #: accepts notifications
    API = "api"
    #: fans out and sends
    WORKER = "worker"
    #: the library and one-off commands: accept and read
    CLIENT = "client"

    @property
    def has_worker(self) -> bool:
        """Whether the process consumes the queue."""
        return self in (Role.SERVE, Role.WORKER)


class SettingSource(NamedTuple):
    """One setting and its source, for `tidings doctor`."""

    name: str
    #: without secrets
    value: str
    #: `flag`, `environment`, `.env`, `tidings.toml`, `generated`, `default`
    origin: str


def _listening_url(values: Mapping[str, object]) -> str:
    """Return the URL of the server itself, as seen from this machine."""
    host = str(values.get("host", "127.0.0.1"))
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{host}:{values.get('port', 8000)}"


def _find_origin_problem(origin: str) -> str | None:
    """Return why a text is not an origin as browsers send it (RFC 6454 §6.2), None if it is one."""
    if origin in ("*", "null"):
        return "would let every site act for a signed-in user; list the origins"
    if not origin.isascii() or origin != origin.lower():
        return "must be in lower case, with the host name in its ASCII form (xn--…)"
    found = _ORIGIN.fullmatch(origin)
    if found is None:
        return "is not an origin: it must be scheme://host[:port], without a path or a trailing slash"
    if found["port"] is not None and int(found["port"]) == {"http": 80, "https": 443}.get(found["scheme"]):
        return "must not contain the default port, which browsers leave out of the header Origin"
    if found["port"] is not None and not 1 <= int(found["port"]) <= 65535:
        return "has a port that is not from 1 to 65535"
    return None


class Settings(BaseSettings):
    """All settings. `Settings.load()` reads all sources; `Settings(...)` uses its arguments and the defaults only."""

    model_config = SettingsConfigDict(env_prefix="TIDINGS_", frozen=True, extra="forbid", validate_default=True)

    #: folder of the generated secrets, and by default of the database
    data_dir: Path = Path("data")
    #: `sqlite:///path` or `postgresql://…`; default: `tidings.db` in the data folder
    database: str = Field(default_factory=lambda data: f"sqlite:///{data.get('data_dir', 'data')}/tidings.db")
    #: size of the PostgreSQL connection pool per process; 0 = 50 for the API, 20 for a worker
    database_pool: int = Field(0, ge=0, le=1000)
    #: migrate the schema at startup; if off, run `tidings db upgrade`
    migrate: bool = True
    #: URL of Redis or Valkey, for a shared queue, caches and presence; unset = in the process's memory
    redis: str | None = None
    #: prefix of the queue names, before the lane
    queue_prefix: str = Field("tidings", pattern=r"^[a-z0-9-]{1,40}$")
    #: address to bind; other than loopback requires configured secrets
    host: str = "127.0.0.1"
    #: TCP port; 0 = any free one
    port: int = Field(8000, ge=0, le=65535)
    #: base URL of links in notifications, without a trailing slash; default: the server's own URL
    frontend_url: str = Field(default_factory=_listening_url)
    #: an API key with the scope admin; empty = none
    bootstrap_key: str = Field("", repr=False)
    #: key that signs user tokens (HS256); empty = generated at the first start
    user_secret: str = Field("", repr=False)
    #: key of the field encryption; empty = generated at the first start
    secret_key: str = Field("", repr=False)
    #: lifetime of user tokens, in seconds
    user_token_ttl: int = Field(3600, ge=60, le=30 * 86_400)
    #: sends in flight per process
    worker_concurrency: int = Field(200, ge=1, le=10_000)
    #: number of sender processes; 0 = encrypt and send in the worker's own process
    workers: int = Field(0, ge=0, le=64)
    #: users per page of a fan-out
    page_size: int = Field(1000, ge=1, le=10_000)
    #: deliveries per task
    batch_size: int = Field(200, ge=1, le=5_000)
    #: concurrent jobs for one user, per worker
    single_jobs: int = Field(10, ge=1, le=1000)
    #: concurrent jobs for several users, per worker
    batch_jobs: int = Field(5, ge=1, le=1000)
    #: recipients of a job that are accepted in one transaction
    batch_job_size: int = Field(50, ge=1, le=5_000)
    #: intake jobs started per second, by all workers together; 0 = no limit
    jobs_per_second: int = Field(100, ge=0, le=1_000_000)
    #: notifications per user and hour, except urgent and mandatory ones; 0 = no limit
    user_limit: int = Field(20, ge=0, le=MAX_HOURLY_LIMIT)
    #: categories with their own limit, `CATEGORY=20`, separated by commas; 0 = no limit
    category_limits: CommaList = ()
    #: notifications per user of all categories together, `3/day,10/week`; per hour, day, week or month
    frequency_caps: CommaList = ()
    #: messages of this installation per hour, except urgent and mandatory ones; 0 = no cap
    installation_cap: int = Field(0, ge=0, le=1_000_000_000)
    #: time zone of users whose profile names none
    timezone: str = "UTC"
    #: quiet hours of users without their own, `22:00-07:00` or `webpush=22:00-07:00`, separated by commas
    quiet_hours: CommaList = ()
    #: the messages that quiet hours held are released over this many seconds
    quiet_hours_spread: float = Field(300, ge=0, le=86_400)
    #: what users receive who have not chosen, `CATEGORY:channel=on` or `off`, `*` = all, separated by commas
    preference_defaults: CommaList = ()
    #: TOML file with the triggers of domain events, besides those of packs; unset = none
    triggers_file: Path | None = None
    #: seconds between runs of the scheduled task that enqueues due work; 0 = off
    process_every: int = Field(120, ge=0, le=86_400)
    #: retention of notifications and their records, in days; 0 = unlimited
    retention_days: int = Field(90, ge=0, le=36_500)
    #: time limit of the drain, in seconds; sends still in flight are abandoned, and repeated by another worker
    drain_seconds: float = Field(6.0, ge=0.1, le=600)
    #: niceness of `tidings worker`, see nice(1); 0 = unchanged
    worker_nice: int = Field(10, ge=0, le=19)
    #: port of /health and /metrics of `tidings worker`; 0 = none
    worker_port: int = Field(0, ge=0, le=65535)
    #: lease duration, in seconds
    lease_seconds: int = Field(60, ge=30, le=3600)
    #: largest delay of the write-behind buffer, in milliseconds
    flush_ms: int = Field(200, ge=1, le=10_000)
    #: capacity of the write-behind buffer; after a crash, unwritten outcomes and sends in flight may be repeated
    flush_rows: int = Field(1000, ge=1, le=10_000)
    #: largest request body, in bytes
    max_body_bytes: int = Field(1_048_576, ge=1024)
    #: origins that may call the API from browsers (CORS)
    cors_origins: CommaList = ()
    #: addresses and networks of reverse proxies, whose `X-Forwarded-For` names the client
    trusted_proxies: CommaList = ()
    #: seconds without viewers after which a stream has ended
    stream_grace: float = Field(30.0, ge=0, le=86_400)
    #: seconds between the heartbeats of live rooms
    stream_heartbeat: float = Field(10.0, ge=0.2, le=60)
    #: what the number of viewers counts: users, or connections
    stream_count_by: Literal["user", "connection"] = "user"
    #: who may watch the stream of a public event: users with a token, or with a ticket of the event
    stream_access: Literal["users", "ticket_holders"] = "users"
    #: connections to live rooms per user and process; 0 = no limit
    stream_user_connections: int = Field(20, ge=0, le=100_000)
    #: connections to live rooms per client address and process; 0 = no limit
    stream_address_connections: int = Field(500, ge=0, le=1_000_000)
    #: connections to live rooms per process; 0 = no limit
    stream_connections: int = Field(20_000, ge=0, le=1_000_000)
    #: port of live rooms only, besides the main port; 0 = none. The default is not used if another process has it
    websocket_port: int = Field(8081, ge=0, le=65535)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["console", "json"] = "console"
    #: serve the demo site, with a mock push service and demo data
    demo: bool = False

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)
    _channel_values: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # the signature is Pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Use constructor arguments only. `load` merges the other sources itself, to record each value's source."""
        return (init_settings,)

    @classmethod
    def load(cls, *, folder: Path | None = None, environ: Mapping[str, str] | None = None, **flags: object) -> Self:
        """Read all sources. Flags that are None count as not given.

        folder: the folder of `.env` and `tidings.toml`, default: the current one; environ: default os.environ.
        Raises ConfigError naming the setting and the fix.
        """
        values: dict[str, object] = {}
        origins: dict[str, str] = {}
        for origin, layer in read_layers(cls, _FILE_SETTINGS, flags, folder or Path(), environ):
            for name, value in layer.items():
                if name not in values:
                    values[name] = value
                    origins[name] = origin
        try:
            settings = cls(**values)  # type: ignore[arg-type]  # raw values, validated right here
        except ValidationError as error:
            raise to_config_error(error) from error
        settings._sources.update(origins)
        settings._require_secrets_when_public()
        return settings._with_secrets(read_secret)

    def ensure_secrets(self) -> Self:
        """Return the settings with a value for every secret.

        Missing secrets are generated once, in `data_dir/secrets` (file mode 0600). A new SQLite file is created here,
        so that it is never readable by others. Raises ConfigError if the folder is not writable.
        """
        if self.sqlite_path is not None:
            create_private_file(self.sqlite_path)
        return self._with_secrets(ensure_secret)

    def with_port(self, port: int) -> Self:
        """Return the settings with the actual port for port 0. The default of `frontend_url` changes with it."""
        if port == self.port:
            return self
        changed: dict[str, object] = {"port": port}
        if "frontend_url" not in self._sources and "frontend_url" not in self.model_fields_set:
            changed["frontend_url"] = _listening_url({"host": self.host, "port": port})
        return self.model_copy(update=changed)

    def with_channel_values(self, values: Mapping[str, str]) -> Self:
        """Return the settings with values for settings of channels, which go before the environment.

        values: variable name → value, such as `TIDINGS_PUSH_EXTRA_HOSTS` → `push.internal:8443`.
        """
        copy = self.model_copy()
        copy._channel_values = {**self._channel_values, **values}
        return copy

    @property
    def channel_values(self) -> Mapping[str, str]:
        """The values of `with_channel_values`."""
        return self._channel_values

    def sources(self) -> list[SettingSource]:
        """Return each setting with its variable name, displayable value and source."""
        return [
            SettingSource(variable_name(name), self._display_value(name), self._sources.get(name, "default"))
            for name in type(self).model_fields
        ]

    def list_generated_secrets(self) -> list[str]:
        """Return the variable names of the generated secrets."""
        return [variable_name(name) for name in SECRET_SETTINGS if self._sources.get(name) == "generated"]

    @property
    def sqlite_path(self) -> Path | None:
        """Path of the SQLite database, None for PostgreSQL and for a database in memory."""
        path = self.database.removeprefix("sqlite:///")
        return Path(path) if path != self.database and path not in ("", ":memory:") else None

    @property
    def is_exclusive(self) -> bool:
        """Whether no other server can use this database. On SQLite the instance lock of `tidings serve` ensures it."""
        return self.sqlite_path is not None

    def validate_for_role(self, role: Role) -> None:
        """Raise ConfigError if a process of this role cannot run with these settings."""
        if role in (Role.API, Role.WORKER) and self.database.startswith("sqlite:"):
            raise ConfigError(
                variable_name("database"),
                f"is SQLite, which supports one server process, but tidings {role.value} is one of several; run "
                "tidings serve, or set it to postgresql://user@host/name",
            )

    @property
    def listening_url(self) -> str:
        """Base URL of the server itself, as seen from this machine."""
        return _listening_url({"host": self.host, "port": self.port})

    @property
    def worker_url(self) -> str | None:
        """Base URL of a worker's health and metrics, as seen from this machine, None without a port."""
        return _listening_url({"host": self.host, "port": self.worker_port}) if self.worker_port else None

    @property
    def is_websocket_port_set(self) -> bool:
        """Whether the port of live rooms was chosen, and is not the default."""
        return "websocket_port" in self._sources or "websocket_port" in self.model_fields_set

    @property
    def schedule_defaults(self) -> ScheduleDefaults:
        """Quiet hours and time zone of users who have set none."""
        return ScheduleDefaults(parse_quiet_hours(self.quiet_hours), self.timezone, self.quiet_hours_spread)

    @property
    def has_weak_bootstrap_key(self) -> bool:
        """Whether there is a bootstrap key that is short enough to guess."""
        return 0 < len(self.bootstrap_key) < MIN_PUBLIC_SECRET

    @property
    def is_public(self) -> bool:
        """Whether the server is reachable from other machines."""
        if self.host == "localhost":
            return False
        try:
            return not ip_address(self.host).is_loopback
        except ValueError:
            return True

    @field_validator("database")
    @classmethod
    def _check_database(cls, value: str) -> str:
        if not value.startswith(("sqlite:///", "postgresql://", "postgres://")):
            raise ValueError("must be sqlite:///path/to/tidings.db or postgresql://user@host/name")
        return value

    @field_validator("redis")
    @classmethod
    def _check_redis(cls, value: str | None) -> str | None:
        if value and not value.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must be a redis://, rediss:// or unix:// URL, such as redis://host:6379/0; or unset it")
        return value or None

    @field_validator("category_limits")
    @classmethod
    def _check_category_limits(cls, value: Sequence[str]) -> Sequence[str]:
        for item in value:
            category, separator, number = item.partition("=")
            if not category or not separator or not (number.isascii() and number.isdecimal()):
                raise ValueError(f"{item!r} is not CATEGORY=number; an example is MESSAGE=100,NEW_EVENT=2")
            if len(number.lstrip("0")) > len(str(MAX_HOURLY_LIMIT)) or int(number) > MAX_HOURLY_LIMIT:
                raise ValueError(
                    f"{category}={number:.20} is more than {MAX_HOURLY_LIMIT}, the highest limit; 0 = no limit"
                )
        return value

    @field_validator("frequency_caps")
    @classmethod
    def _check_frequency_caps(cls, value: Sequence[str]) -> Sequence[str]:
        parse_frequency_caps(value)
        return value

    @field_validator("timezone")
    @classmethod
    def _check_timezone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ValueError, KeyError, OSError):  # malformed, unknown, or the name of a directory
            raise ValueError(f"{value!r} is not an IANA time-zone name; an example is Europe/Zurich") from None
        return value

    @field_validator("quiet_hours")
    @classmethod
    def _check_quiet_hours(cls, value: Sequence[str]) -> Sequence[str]:
        parse_quiet_hours(value)
        return value

    @field_validator("preference_defaults")
    @classmethod
    def _check_preference_defaults(cls, value: Sequence[str]) -> Sequence[str]:
        for item in value:
            parse_default(item)
        return value

    @field_validator("frontend_url")
    @classmethod
    def _check_frontend_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("must be an absolute http(s) URL, such as https://app.example.com")
        return value.rstrip("/")

    @field_validator("cors_origins")
    @classmethod
    def _check_cors_origins(cls, value: Sequence[str]) -> Sequence[str]:
        for origin in value:
            if (problem := _find_origin_problem(origin)) is not None:
                raise ValueError(f"{origin!r} {problem}; an example is https://app.example.com,http://localhost:3000")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _check_trusted_proxies(cls, value: Sequence[str]) -> Sequence[str]:
        for entry in value:
            try:
                ip_network(entry, strict=False)
            except ValueError:
                raise ValueError(
                    f"{entry!r} is not an IP address or network; an example is 127.0.0.1,10.0.0.0/8,fd00::/8"
                ) from None
        return value

    def _require_secrets_when_public(self) -> None:
        if not self.is_public:
            return
        for name in ("user_secret", "secret_key"):
            if len(getattr(self, name)) < MIN_PUBLIC_SECRET:
                raise ConfigError(
                    variable_name(name),
                    f"is required to bind {self.host}, which other machines can reach; set it (or "
                    f"{variable_name(name)}_FILE) to at least {MIN_PUBLIC_SECRET} random characters, "
                    "for example from `openssl rand -hex 32`, or bind 127.0.0.1",
                )
        if self.has_weak_bootstrap_key:
            raise ConfigError(
                variable_name("bootstrap_key"),
                f"is too short to bind {self.host}, which other machines can reach; set it to at least "
                f"{MIN_PUBLIC_SECRET} random characters, unset it, or bind 127.0.0.1",
            )

    def _with_secrets(self, find: SecretFinder) -> Self:
        generated = {
            name: value
            for name in ("user_secret", "secret_key")
            if not getattr(self, name) and (value := find(self.data_dir, name))
        }
        if not generated:
            return self
        copy = self.model_copy(update=generated)
        copy._sources = {**self._sources, **dict.fromkeys(generated, "generated")}
        return copy

    def _display_value(self, name: str) -> str:
        value: object = getattr(self, name)
        if name in SECRET_SETTINGS:
            return str(SecretStr(str(value))) if value else "(unset)"
        if name in _URL_SETTINGS and isinstance(value, str) and "@" in value:
            parts = urlsplit(value)
            return parts._replace(netloc="***@" + parts.netloc.rpartition("@")[2]).geturl()
        if isinstance(value, tuple):
            return ",".join(value) or "(none)"
        return "(unset)" if value is None else str(value)
