"""Settings: one frozen object, read once at the start and passed down. Nothing else reads the environment.

Order, strongest first: flags, `TIDINGS_*` environment, `.env`, `tidings.toml`, defaults (API.md "Settings").
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, PrivateAttr, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from tidings.errors import ConfigError
from tidings.secret_files import existing_secret, private_file, secret_from_file
from tidings.settings_sources import SecretFinder, config_error, layers, variable

#: settings that are never shown
SECRETS = ("bootstrap_key", "user_secret", "secret_key")
#: shown without user and password
_URLS = ("database", "redis")
#: settings with a `…_FILE` variant: what may hold a password
_FROM_FILES = (*SECRETS, *_URLS)
#: below this many characters a secret does not count as one when the server is reachable from outside
MIN_PUBLIC_SECRET = 16
#: what push services are told when nobody named a contact
FALLBACK_SUBJECT = "https://tidings.example"


def _split(value: object) -> object:
    """Turn `a, b` into a tuple; lists (from TOML) pass."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


class Role(StrEnum):
    """What a process is for. It decides what it opens, and how much of it."""

    #: everything in one process
    SERVE = "serve"
    #: accepts; others send
    API = "api"
    #: sends; others accept
    WORKER = "worker"
    #: the library and one-off commands: accept and look
    CLIENT = "client"

    @property
    def sends(self) -> bool:
        """Whether it takes work from the queue."""
        return self in (Role.SERVE, Role.WORKER)


class Origin(NamedTuple):
    """One setting with where it came from, for `tidings doctor`."""

    name: str
    #: safe to show
    value: str
    #: `flag`, `environment`, `.env`, `tidings.toml`, `generated`, `default`
    origin: str


def _listening(known: Mapping[str, object]) -> str:
    """Return the URL of the server itself, as seen from this machine."""
    host = str(known.get("host", "127.0.0.1"))
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{host}:{known.get('port', 8000)}"


def _contact(known: Mapping[str, object]) -> str:
    """Return the product's own site where it is public, else a stand-in (the start warns about it)."""
    parts = urlsplit(str(known.get("frontend_url", "")))
    host = parts.hostname or ""
    named = parts.scheme == "https" and "." in host and not host[-1].isdigit()
    return f"https://{host}" if named and not host.endswith((".invalid", ".localhost")) else FALLBACK_SUBJECT


class Settings(BaseSettings):
    """Every setting. `Settings.load()` reads all sources; `Settings(...)` takes its arguments and defaults only."""

    model_config = SettingsConfigDict(env_prefix="TIDINGS_", frozen=True, extra="forbid", validate_default=True)

    #: where the database and generated secrets live by default
    data_dir: Path = Path("data")
    #: `sqlite:///path` or `postgresql://…`; default: `tidings.db` in the data folder
    database: str = Field(default_factory=lambda data: f"sqlite:///{data.get('data_dir', 'data')}/tidings.db")
    #: connections to PostgreSQL per process; 0 = 50 for the API, 20 for a worker
    database_pool: int = Field(0, ge=0, le=1000)
    #: bring the schema up to date at the start; off: `tidings db upgrade` does
    migrate: bool = True
    #: `redis://…` of a Redis or Valkey: queue, caches and presence are shared; unset = inside the process
    redis: str | None = None
    #: first part of the names of our queues; the lane follows
    queue_prefix: str = Field("tidings", pattern=r"^[a-z0-9-]{1,40}$")
    #: address to bind; anything but loopback needs real secrets
    host: str = "127.0.0.1"
    #: TCP port; 0 = any free one
    port: int = Field(8000, ge=0, le=65535)
    #: base of links in notifications, without a trailing slash; default: where the server listens
    frontend_url: str = Field(default_factory=_listening)
    #: an admin API key made known at start; empty = none
    bootstrap_key: str = Field("", repr=False)
    #: signs user tokens (HS256); empty = generated at first start
    user_secret: str = Field("", repr=False)
    #: wraps VAPID keys at rest; empty = generated at first start
    secret_key: str = Field("", repr=False)
    #: life of user tokens, in seconds
    user_token_ttl: int = Field(3600, ge=60, le=30 * 86_400)
    #: whom push services may write to (`mailto:` or `https:`, RFC 8292 §2.1); default: frontend_url if it is https
    vapid_subject: str = Field(default_factory=_contact)
    #: more push hosts, `host[:port]`; only these may be plain http or loopback
    push_extra_hosts: Words = ()
    #: PEM file with an extra CA for them
    push_ca_file: Path | None = None
    #: sends in flight per process
    worker_concurrency: int = Field(200, ge=1, le=10_000)
    #: sender processes that encrypt and send; 0 = in the server's own process
    workers: int = Field(0, ge=0, le=64)
    #: users per page of a fan-out
    page_size: int = Field(1000, ge=1, le=10_000)
    #: deliveries that travel in one task
    batch_size: int = Field(200, ge=1, le=5_000)
    #: jobs of one notification that are worked on at once, per worker (MISSION M28)
    single_jobs: int = Field(10, ge=1, le=1000)
    #: jobs of many recipients that are worked on at once, per worker
    batch_jobs: int = Field(5, ge=1, le=1000)
    #: recipients that a job from outside tells at once
    batch_job_size: int = Field(50, ge=1, le=5_000)
    #: jobs from outside that are begun per second, by all workers together; 0 = as many as come
    jobs_per_second: int = Field(100, ge=0, le=1_000_000)
    #: notifications per user and hour; urgent and mandatory ones are not held back; 0 = no limit (MISSION M18)
    user_limit: int = Field(20, ge=0, le=10_000)
    #: categories with a limit of their own, `CATEGORY=20`, separated by commas; 0 = no limit
    category_limits: Words = ()
    #: seconds between runs of the schedule that picks up work that is due; 0 = off (MISSION M22)
    process_every: int = Field(120, ge=0, le=86_400)
    #: days that notifications and what became of them are kept; 0 = for ever
    retention_days: int = Field(90, ge=0, le=36_500)
    #: seconds that a stop may take: what is in flight by then is given up, and sent again by another worker
    drain_seconds: float = Field(6.0, ge=0.1, le=600)
    #: how far `tidings worker` steps back for the other programs of its machine, as of nice(1); 0 = not at all
    worker_nice: int = Field(10, ge=0, le=19)
    #: port on which `tidings worker` answers /health and /metrics; 0 = none
    worker_port: int = Field(0, ge=0, le=65535)
    #: how long a worker owns what it claimed, in seconds
    lease_seconds: int = Field(60, ge=30, le=3600)
    #: outcomes are written at most this late, in milliseconds
    flush_ms: int = Field(200, ge=1, le=10_000)
    #: no more than this many are unwritten at any time: what a crash may repeat, beside what is in flight
    flush_rows: int = Field(1000, ge=1, le=10_000)
    #: largest request body in bytes
    max_body_bytes: int = Field(1_048_576, ge=1024)
    #: web origins that may call the API from a browser
    cors_origins: Words = ()
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["console", "json"] = "console"
    #: serve the demo site, with a mock push service and demo data
    demo: bool = False

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # the signature is Pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Keep the constructor hermetic: `load` merges the sources itself, to know where each value came from."""
        return (init_settings,)

    @classmethod
    def load(cls, *, folder: Path | None = None, environ: Mapping[str, str] | None = None, **flags: object) -> Self:
        """Read all sources; flags that are None count as not given.

        folder: where `.env` and `tidings.toml` are looked for (default: the current one); environ: default os.environ.
        Raises ConfigError naming the setting and the fix.
        """
        values: dict[str, object] = {}
        origins: dict[str, str] = {}
        for origin, layer in layers(cls, _FROM_FILES, flags, folder or Path(), environ):
            for name, value in layer.items():
                if name not in values:
                    values[name] = value
                    origins[name] = origin
        try:
            settings = cls(**values)  # type: ignore[arg-type]  # raw values, validated right here
        except ValidationError as error:
            raise config_error(error) from error
        settings._origins.update(origins)
        settings._refuse_public_without_secrets()
        return settings._with(existing_secret)

    def ensure_secrets(self) -> Self:
        """Return settings in which every secret has a value.

        Missing ones are generated once, into `data_dir/secrets` (file mode 0600). A new database file is made here too:
        it is the owner's alone from its first moment. Raises ConfigError naming the folder when it cannot be written.
        """
        if self.sqlite_path is not None:
            private_file(self.sqlite_path)
        return self._with(secret_from_file)

    def bound_to(self, port: int) -> Self:
        """Return settings with the port that the system gave for port 0; links follow unless a base was given."""
        if port == self.port:
            return self
        changed: dict[str, object] = {"port": port}
        if "frontend_url" not in self._origins and "frontend_url" not in self.model_fields_set:
            changed["frontend_url"] = _listening({"host": self.host, "port": port})
        return self.model_copy(update=changed)

    def origins(self) -> list[Origin]:
        """Return each setting as its variable name, a value safe to show, and where it came from."""
        return [
            Origin(variable(name), self._shown(name), self._origins.get(name, "default"))
            for name in type(self).model_fields
        ]

    def generated_secrets(self) -> list[str]:
        """Return the variables of the secrets that this installation made itself."""
        return [variable(name) for name in SECRETS if self._origins.get(name) == "generated"]

    @property
    def sqlite_path(self) -> Path | None:
        """File of the SQLite database, None for another database or one in memory."""
        path = self.database.removeprefix("sqlite:///")
        return Path(path) if path != self.database and path not in ("", ":memory:") else None

    def refuse_for(self, role: Role) -> None:
        """Raise ConfigError, naming the fix, where these settings do not make a process of this role."""
        if role in (Role.API, Role.WORKER) and self.database.startswith("sqlite:"):
            raise ConfigError(
                variable("database"),
                f"is SQLite, which belongs to one server, and tidings {role.value} is one of several processes; run "
                "tidings serve, or set it to postgresql://user@host/name",
            )

    @property
    def listening_url(self) -> str:
        """Base URL of the server itself, as seen from this machine."""
        return _listening({"host": self.host, "port": self.port})

    @property
    def worker_url(self) -> str | None:
        """Base URL of a worker's health and metrics, as seen from this machine, None = it has none."""
        return _listening({"host": self.host, "port": self.worker_port}) if self.worker_port else None

    @property
    def weak_bootstrap_key(self) -> bool:
        """Whether there is a bootstrap key and somebody could guess it."""
        return 0 < len(self.bootstrap_key) < MIN_PUBLIC_SECRET

    @property
    def public(self) -> bool:
        """Whether the server is reachable from other machines."""
        if self.host == "localhost":
            return False
        try:
            return not ip_address(self.host).is_loopback
        except ValueError:
            return True

    @field_validator("database")
    @classmethod
    def _known_database(cls, value: str) -> str:
        if not value.startswith(("sqlite:///", "postgresql://", "postgres://")):
            raise ValueError("is no database; write sqlite:///path/to/tidings.db or postgresql://user@host/name")
        return value

    @field_validator("redis")
    @classmethod
    def _known_queue(cls, value: str | None) -> str | None:
        if value and not value.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("is no Redis; write redis://host:6379/0 or unset it")
        return value or None

    @field_validator("category_limits")
    @classmethod
    def _limits(cls, value: Sequence[str]) -> Sequence[str]:
        for one in value:
            category, sign, number = one.partition("=")
            if not category or not sign or not number.isdigit():
                raise ValueError(f"{one!r} is not CATEGORY=number; write for example ORDER_UPDATES=100,MARKETING=2")
        return value

    @field_validator("frontend_url")
    @classmethod
    def _absolute(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("is not an absolute http(s) URL; write for example https://app.example.com")
        return value.rstrip("/")

    @field_validator("vapid_subject")
    @classmethod
    def _reachable(cls, value: str) -> str:
        parts = urlsplit(value)
        host = parts.path.rpartition("@")[2] if parts.scheme == "mailto" else parts.hostname or ""
        if (
            parts.scheme not in ("mailto", "https")
            or any(character in value for character in "<> ")
            or "." not in host
            or host.endswith((".invalid", ".localhost"))
        ):
            # Apple answers 403 BadJwtToken to these, hours later and for every device.
            raise ValueError(f"{value!r} is no contact; write mailto:ops@your-domain or https://your-domain")
        return value

    @field_validator("push_extra_hosts")
    @classmethod
    def _hosts(cls, value: Sequence[str]) -> Sequence[str]:
        for host in value:
            parts = urlsplit(f"//{host}")
            if "/" in host or "@" in host or not parts.hostname or (parts.port or 1) < 1:
                raise ValueError(f"{host!r} is not host[:port]; write for example push.internal:8443,127.0.0.1:9000")
        return value

    @field_validator("push_ca_file")
    @classmethod
    def _readable(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError(f"there is no file {value}; give the path of a PEM file")
        return value

    def _refuse_public_without_secrets(self) -> None:
        if not self.public:
            return
        for name in ("user_secret", "secret_key"):
            if len(getattr(self, name)) < MIN_PUBLIC_SECRET:
                raise ConfigError(
                    variable(name),
                    f"is needed to bind {self.host}, an address other machines can reach; set it (or "
                    f"{variable(name)}_FILE) to at least {MIN_PUBLIC_SECRET} random characters, "
                    "for example from `openssl rand -hex 32`, or bind 127.0.0.1",
                )
        if self.weak_bootstrap_key:
            raise ConfigError(
                variable("bootstrap_key"),
                f"is too short to bind {self.host}, an address other machines can reach; give it at least "
                f"{MIN_PUBLIC_SECRET} random characters, unset it, or bind 127.0.0.1",
            )

    def _with(self, find: SecretFinder) -> Self:
        found = {
            name: value
            for name in ("user_secret", "secret_key")
            if not getattr(self, name) and (value := find(self.data_dir, name))
        }
        if not found:
            return self
        copy = self.model_copy(update=found)
        copy._origins = {**self._origins, **dict.fromkeys(found, "generated")}
        return copy

    def _shown(self, name: str) -> str:
        value: object = getattr(self, name)
        if name in SECRETS:
            return str(SecretStr(str(value))) if value else "(unset)"
        if name in _URLS and isinstance(value, str) and "@" in value:
            parts = urlsplit(value)
            return parts._replace(netloc="***@" + parts.netloc.rpartition("@")[2]).geturl()
        if isinstance(value, tuple):
            return ",".join(value) or "(none)"
        return "(unset)" if value is None else str(value)
