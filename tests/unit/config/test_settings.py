"""Sources of settings, messages about wrong values, and protection of secrets."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from tidings.config.settings import Role, Settings
from tidings.config.sources import find_unknown_variables
from tidings.errors import ConfigError


def load(folder: Path, environ: Mapping[str, str] | None = None, **flags: object) -> Settings:
    return Settings.load(folder=folder, environ=environ or {}, **flags)


def origin_of(settings: Settings, name: str) -> tuple[str, str]:
    return next((value, origin) for found, value, origin in settings.sources() if found == name)


def test_without_any_source_the_defaults_hold(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert settings.database == "sqlite:///data/tidings.db"
    assert (settings.host, settings.port, settings.worker_concurrency) == ("127.0.0.1", 8000, 200)
    assert settings.frontend_url == "http://127.0.0.1:8000"


def test_flags_beat_environment_beats_dotenv_beats_toml(tmp_path: Path) -> None:
    (tmp_path / "tidings.toml").write_text('port = 1\nworkers = 1\npage_size = 11\nlog_level = "error"\n')
    (tmp_path / ".env").write_text("TIDINGS_PORT=2\nTIDINGS_WORKERS=2\nTIDINGS_PAGE_SIZE=22\n")
    settings = load(tmp_path, {"TIDINGS_PORT": "3", "TIDINGS_WORKERS": "3"}, port=4, host=None)
    assert (settings.port, settings.workers, settings.page_size, settings.log_level) == (4, 3, 22, "error")
    assert origin_of(settings, "TIDINGS_PORT") == ("4", "flag")
    assert origin_of(settings, "TIDINGS_WORKERS") == ("3", "environment")
    assert origin_of(settings, "TIDINGS_PAGE_SIZE") == ("22", ".env")
    assert origin_of(settings, "TIDINGS_LOG_LEVEL") == ("error", "tidings.toml")
    assert origin_of(settings, "TIDINGS_HOST") == ("127.0.0.1", "default")


def test_the_database_lives_in_the_data_folder(tmp_path: Path) -> None:
    settings = load(tmp_path, {"TIDINGS_DATA_DIR": "/var/lib/tidings"})
    assert settings.sqlite_path == Path("/var/lib/tidings/tidings.db")


def test_lists_are_separated_by_commas(tmp_path: Path) -> None:
    settings = load(tmp_path, {"TIDINGS_TRUSTED_PROXIES": "127.0.0.1, 10.0.0.0/8 ,"})
    assert settings.trusted_proxies == ("127.0.0.1", "10.0.0.0/8")


def test_lists_in_toml_are_lists(tmp_path: Path) -> None:
    (tmp_path / "tidings.toml").write_text('cors_origins = ["https://a.example"]\n')
    assert load(tmp_path).cors_origins == ("https://a.example",)


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example.com",
        "http://localhost:3000",
        "https://app.example.com:8443",
        "http://[::1]:8080",
        "https://xn--bcher-kva.example",
        "capacitor://localhost",
        "chrome-extension://abcdefghijklmnop",
    ],
)
def test_an_origin_as_browsers_send_it_is_accepted(tmp_path: Path, origin: str) -> None:
    assert load(tmp_path, {"TIDINGS_CORS_ORIGINS": f"{origin}, https://b.example"}).cors_origins[0] == origin


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "https://x.example/",
        "https://x.example/path",
        "x.example",
        "//x.example",
        "https://",
        "https://*.x.example",
        "https://X.example",
        "HTTPS://x.example",
        "https://bücher.example",
        "https://user@x.example",
        "https://x.example:443",
        "http://x.example:80",
        "https://x.example:0",
        "https://x.example:99999",
        "https://x.example:",
        "https://x.example?a",
        "https://x.example#a",
        "https://x.example https://y.example",
        "https://[::1",
    ],
)
def test_what_no_browser_sends_as_an_origin_is_rejected_at_the_start(tmp_path: Path, origin: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, {"TIDINGS_CORS_ORIGINS": f"https://a.example,{origin}"})
    assert caught.value.setting == "TIDINGS_CORS_ORIGINS"
    assert repr(origin) in caught.value.message
    assert "https://app.example.com" in caught.value.message


def test_trusted_proxies_are_addresses_and_networks(tmp_path: Path) -> None:
    settings = load(tmp_path, {"TIDINGS_TRUSTED_PROXIES": "127.0.0.1, 10.0.0.0/8,fd00::/8, ::1"})
    assert settings.trusted_proxies == ("127.0.0.1", "10.0.0.0/8", "fd00::/8", "::1")


@pytest.mark.parametrize("entry", ["*", "proxy.internal", "127.0.0.1:80", "10.0.0.0/33", "loopback"])
def test_other_trusted_proxies_are_rejected_at_the_start(tmp_path: Path, entry: str) -> None:
    with pytest.raises(ConfigError, match=r"TIDINGS_TRUSTED_PROXIES.*10\.0\.0\.0/8"):
        load(tmp_path, {"TIDINGS_TRUSTED_PROXIES": entry})


def test_an_empty_variable_counts_as_unset(tmp_path: Path) -> None:
    assert load(tmp_path, {"TIDINGS_PORT": "", "TIDINGS_REDIS": ""}).port == 8000


def test_the_legacy_name_of_the_frontend_url_is_read_and_the_new_one_wins(tmp_path: Path) -> None:
    assert load(tmp_path, {"FRONTEND_URL": "https://a.example/"}).frontend_url == "https://a.example"
    both = {"FRONTEND_URL": "https://a.example", "TIDINGS_FRONTEND_URL": "https://b.example"}
    assert load(tmp_path, both).frontend_url == "https://b.example"


@pytest.mark.parametrize(
    ("variable", "value", "fix"),
    [
        ("TIDINGS_REDIS", "localhost:6379", "redis://host:6379/0"),
        ("TIDINGS_DATABASE", "mysql://x", "sqlite:///path/to/tidings.db"),
        ("TIDINGS_PORT", "web", "valid integer"),
        ("TIDINGS_PORT", "70000", "65535"),
        ("TIDINGS_FRONTEND_URL", "app.example.com", "https://app.example.com"),
        ("TIDINGS_LOG_LEVEL", "loud", "'debug'"),
    ],
)
def test_a_wrong_value_names_the_setting_and_the_fix(tmp_path: Path, variable: str, value: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, {variable: value})
    assert caught.value.setting == variable
    assert fix in caught.value.message


def test_the_file_may_contain_settings_of_channels(tmp_path: Path) -> None:
    (tmp_path / "tidings.toml").write_text('port = 80\npush_extra_hosts = ["a:1"]\n[webpush]\nca_file = "x"\n')
    assert load(tmp_path).port == 80


def test_an_unknown_name_in_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tidings.toml").write_text("prot = 80\n")
    with pytest.raises(ConfigError, match=r"tidings\.toml: 'prot' is not a setting"):
        load(tmp_path)


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tidings.toml").write_text("port = \n")
    with pytest.raises(ConfigError, match="correct the file"):
        load(tmp_path)


def test_misspelt_variables_are_found() -> None:
    environ = {"TIDINGS_PROT": "1", "TIDINGS_PORT": "1", "TIDINGS_SECRET_KEY_FILE": "x", "HOME": "/"}
    assert find_unknown_variables(Settings, environ) == ["TIDINGS_PROT"]


def test_a_secret_can_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-the-file\n")
    assert load(tmp_path, {"TIDINGS_SECRET_KEY_FILE": str(tmp_path / "key")}).secret_key == "from-the-file"
    (tmp_path / "url").write_text("postgresql://tidings:secret@db/tidings\n")
    found = load(tmp_path, {"TIDINGS_DATABASE_FILE": str(tmp_path / "url")})
    assert found.database == "postgresql://tidings:secret@db/tidings"


def test_a_secret_given_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("a")
    with pytest.raises(ConfigError, match="unset one of them"):
        load(tmp_path, {"TIDINGS_USER_SECRET": "b", "TIDINGS_USER_SECRET_FILE": str(tmp_path / "key")})


def test_a_missing_secret_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="TIDINGS_USER_SECRET_FILE: cannot read"):
        load(tmp_path, {"TIDINGS_USER_SECRET_FILE": str(tmp_path / "no")})


def test_secrets_are_made_once_and_readable_by_the_owner_only(tmp_path: Path) -> None:
    first = load(tmp_path, data_dir=tmp_path).ensure_secrets()
    again = load(tmp_path, data_dir=tmp_path)
    assert len(first.secret_key) >= 32
    assert (first.secret_key, first.user_secret) == (again.secret_key, again.user_secret)
    assert first.secret_key != first.user_secret
    for name in ("secret_key", "user_secret"):
        assert stat.S_IMODE((tmp_path / "secrets" / name).stat().st_mode) == 0o600
    assert {file.name for file in (tmp_path / "secrets").iterdir()} == {"secret_key", "user_secret"}
    assert origin_of(again, "TIDINGS_SECRET_KEY")[1] == "generated"


def test_loading_alone_writes_nothing(tmp_path: Path) -> None:
    load(tmp_path, data_dir=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_given_secret_is_not_replaced(tmp_path: Path) -> None:
    settings = load(tmp_path, {"TIDINGS_SECRET_KEY": "mine"}, data_dir=tmp_path).ensure_secrets()
    assert settings.secret_key == "mine"
    assert not (tmp_path / "secrets" / "secret_key").exists()


def test_a_data_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"TIDINGS_DATA_DIR: cannot use .*; choose a folder"):
        load(tmp_path, data_dir=tmp_path / "file").ensure_secrets()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "notify.example.com"])
def test_binding_publicly_needs_real_secrets(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="TIDINGS_USER_SECRET: is required to bind"):
        load(tmp_path, host=host)
    with pytest.raises(ConfigError, match="TIDINGS_SECRET_KEY: is required to bind"):
        load(tmp_path, {"TIDINGS_USER_SECRET": "u" * 32, "TIDINGS_SECRET_KEY": "short"}, host=host)
    assert load(tmp_path, {"TIDINGS_USER_SECRET": "u" * 32, "TIDINGS_SECRET_KEY": "k" * 32}, host=host).is_public


def test_binding_publicly_needs_a_bootstrap_key_that_cannot_be_guessed(tmp_path: Path) -> None:
    secrets = {"TIDINGS_USER_SECRET": "u" * 32, "TIDINGS_SECRET_KEY": "k" * 32}
    short = {"TIDINGS_BOOTSTRAP_KEY": "b" * 15}
    with pytest.raises(ConfigError, match="TIDINGS_BOOTSTRAP_KEY: is too short to bind"):
        load(tmp_path, secrets | short, host="0.0.0.0")
    assert load(tmp_path, short).has_weak_bootstrap_key
    assert not load(tmp_path, secrets | {"TIDINGS_BOOTSTRAP_KEY": "b" * 16}, host="0.0.0.0").has_weak_bootstrap_key


def test_the_data_folder_and_the_database_are_made_for_their_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        load(tmp_path, data_dir=tmp_path / "data").ensure_secrets()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "data" / "tidings.db").stat().st_mode) == 0o600


def test_a_database_that_exists_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "tidings.db").touch()
    (tmp_path / "tidings.db").chmod(0o640)
    load(tmp_path, data_dir=tmp_path).ensure_secrets()
    assert stat.S_IMODE((tmp_path / "tidings.db").stat().st_mode) == 0o640


def test_generated_secrets_do_not_allow_a_public_address(tmp_path: Path) -> None:
    load(tmp_path, data_dir=tmp_path).ensure_secrets()
    with pytest.raises(ConfigError, match="TIDINGS_USER_SECRET"):
        load(tmp_path, data_dir=tmp_path, host="0.0.0.0")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_loopback_is_not_public(tmp_path: Path, host: str) -> None:
    assert not load(tmp_path, host=host).is_public


def test_no_secret_is_ever_shown(tmp_path: Path) -> None:
    canary = "canary-canary-canary"
    environ = dict.fromkeys(("TIDINGS_SECRET_KEY", "TIDINGS_USER_SECRET", "TIDINGS_BOOTSTRAP_KEY"), canary)
    settings = load(tmp_path, environ)
    assert canary not in repr(settings)
    assert canary not in str(settings.sources())


def test_the_constructor_ignores_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDINGS_PORT", "1234")
    assert Settings().port == 8000


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]  # the tested error


@pytest.mark.parametrize("role", Role)
def test_postgresql_suits_every_role(role: Role) -> None:
    Settings(database="postgresql://tidings@db/tidings").validate_for_role(role)


@pytest.mark.parametrize("role", [Role.API, Role.WORKER])
@pytest.mark.parametrize("database", ["sqlite:///data/tidings.db", "sqlite:///:memory:"])
def test_sqlite_does_not_suit_several_processes(role: Role, database: str) -> None:
    with pytest.raises(ConfigError, match=rf"tidings {role.value} .*run tidings serve"):
        Settings(database=database).validate_for_role(role)


def test_sqlite_suits_a_server_and_its_commands() -> None:
    for role in (Role.SERVE, Role.CLIENT):
        Settings().validate_for_role(role)


def test_passwords_in_urls_are_not_shown() -> None:
    settings = Settings(database="postgresql://tidings:canary@db/tidings", redis="rediss://:canary@cache:6380/1")
    shown = {origin.name: origin.value for origin in settings.sources()}
    assert shown["TIDINGS_DATABASE"] == "postgresql://***@db/tidings"
    assert shown["TIDINGS_REDIS"] == "rediss://***@cache:6380/1"


def test_a_worker_has_an_address_once_it_has_a_port() -> None:
    assert Settings().worker_url is None
    assert Settings(worker_port=9100).worker_url == "http://127.0.0.1:9100"
