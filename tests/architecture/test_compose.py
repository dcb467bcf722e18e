"""Static checks of `compose.yaml` and the Dockerfile. No container engine is needed."""

import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml  # type: ignore[import-untyped]  # stubs would be a further package

from tidings.cli import openapi
from tidings.cli.app import build_app
from tidings.config.settings import Role, Settings
from tidings.config.sources import CHANNEL_SHORT_NAMES
from tidings.stores.factory import _DEFAULT_POOL_SIZES
from tidings.worker.worker import FINAL_WRITE_TIMEOUT

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "tests/data/compose-spec/compose-spec.json").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
#: the variables that an operator sets in `.env`
ENV = {
    "POSTGRES_PASSWORD": "4f5c",
    "TIDINGS_SECRET_KEY": "s" * 64,
    "TIDINGS_USER_SECRET": "u" * 64,
    "TIDINGS_FRONTEND_URL": "https://shop.example",
    "TIDINGS_VAPID_SUBJECT": "mailto:ops@shop.example",
}
BUILT_SERVICES = {name: service for name, service in COMPOSE["services"].items() if service.get("build")}
_VARIABLE = re.compile(r"\$\{([A-Z_]+):\?[^}]+\}")
_URL = re.compile(r"http://127\.0\.0\.1:(\d+)(/[a-z/]+)")


def interpolate(value: object) -> object:
    """Return a value with its variables substituted as Compose does."""
    if isinstance(value, Mapping):
        return {key: interpolate(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [interpolate(inner) for inner in value]
    return _VARIABLE.sub(lambda found: ENV[found[1]], value) if isinstance(value, str) else value


def load_environment(service: Mapping[str, Any]) -> dict[str, str]:
    """Return a container's variables. The service's values override the image's."""
    image_variables = dict(re.findall(r"^(?:ENV|   ) (TIDINGS_[A-Z_]+)=(\S+)", DOCKERFILE, re.MULTILINE))
    service_variables: Any = interpolate(service["environment"])
    return {**image_variables, **service_variables}


def list_probes(service: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """Yield (port, path) of each URL in a service's health check."""
    check = service.get("healthcheck", {})
    if not check.get("disable"):
        yield from ((int(port), path) for port, path in _URL.findall(json.dumps(check) if check else DOCKERFILE))


def parse_seconds(duration: str) -> float:
    assert re.fullmatch(r"\d+s", duration), f"{duration} is not in seconds"
    return float(duration[:-1])


def test_compose_file_follows_the_compose_specification() -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(interpolate(COMPOSE))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(SCHEMA).validate({**COMPOSE, "service": {}})


def test_every_required_variable_is_listed_in_the_header() -> None:
    text = (ROOT / "compose.yaml").read_text()
    assert set(_VARIABLE.findall(text)) == set(ENV)
    assert re.findall(r"\$\{(?![A-Z_]+:\?)", text) == [], "a variable that may be missing"
    assert [name for name in ENV if f"#   {name}=" not in text] == []


@pytest.mark.parametrize("name", BUILT_SERVICES)
def test_every_setting_exists_and_fits_the_process(name: str, tmp_path: Path) -> None:
    variables = load_environment(BUILT_SERVICES[name])
    known = {f"TIDINGS_{field.upper()}" for field in Settings.model_fields} | CHANNEL_SHORT_NAMES
    assert set(variables) - known == set()
    settings = Settings.load(folder=tmp_path, environ=variables)
    assert settings.is_public
    assert not settings.migrate, "the schema is changed by `migrate` alone"
    assert settings.list_generated_secrets() == []
    if name != "migrate":
        settings.validate_for_role(Role(name))


@pytest.mark.parametrize("name", BUILT_SERVICES)
def test_every_command_exists_in_the_cli(name: str) -> None:
    assert 'ENTRYPOINT ["tidings"]' in DOCKERFILE
    command, _, _ = build_app().parse_args(BUILT_SERVICES[name]["command"], exit_on_error=False, print_error=False)
    assert command.__module__.startswith("tidings.cli.")


def test_health_checks_request_existing_routes(capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(openapi.openapi())
    routes = json.loads(capsys.readouterr().out)["paths"]
    probed = {name: list(list_probes(service)) for name, service in BUILT_SERVICES.items()}
    assert probed == {"migrate": [], "api": [(8000, "/health/ready")], "worker": [(8001, "/health/worker")]}
    assert {path for found in probed.values() for _, path in found} <= set(routes)
    assert BUILT_SERVICES["worker"]["command"][-2:] == ["--port", "8001"]
    assert Settings.model_fields["port"].default == 8000


def test_stop_grace_period_covers_draining() -> None:
    for service in BUILT_SERVICES.values():
        drain = float(load_environment(service)["TIDINGS_DRAIN_SECONDS"])
        assert drain + FINAL_WRITE_TIMEOUT < parse_seconds(service["stop_grace_period"])


def test_the_database_has_connections_for_all_pools() -> None:
    (allowed,) = re.findall(r"max_connections=(\d+)", " ".join(COMPOSE["services"]["postgres"]["command"]))
    workers = COMPOSE["services"]["worker"]["deploy"]["replicas"]
    # twice: in a rolling upgrade old and new processes run together; PostgreSQL reserves 3
    required = (
        2 * (_DEFAULT_POOL_SIZES[Role.API] + workers * _DEFAULT_POOL_SIZES[Role.WORKER])
        + _DEFAULT_POOL_SIZES[Role.CLIENT]
        + 3
    )
    assert workers == 2
    assert required <= int(allowed)


def test_services_that_others_wait_for_have_health_checks() -> None:
    services = COMPOSE["services"]
    for service in services.values():
        for name, dependency in service.get("depends_on", {}).items():
            if dependency["condition"] == "service_healthy":
                assert services[name]["healthcheck"]["test"]


def test_the_queue_is_persistent_and_never_evicts() -> None:
    command = " ".join(COMPOSE["services"]["valkey"]["command"])
    assert "--appendonly yes --appendfsync everysec --maxmemory-policy noeviction" in command


def test_every_volume_is_declared_and_mounted() -> None:
    mounted = {volume.partition(":")[0] for service in COMPOSE["services"].values() for volume in service["volumes"]}
    assert mounted == set(COMPOSE["volumes"])


def test_only_the_api_is_published_and_only_on_loopback() -> None:
    published = {name: service["ports"] for name, service in COMPOSE["services"].items() if "ports" in service}
    assert published == {"api": ["127.0.0.1:8000:8000"]}


def test_the_image_copies_existing_files_and_pins_its_requirements() -> None:
    copied = [name for names in re.findall(r"^COPY (.+) \./\S*$", DOCKERFILE, re.MULTILINE) for name in names.split()]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert sorted(line[1:] for line in ignored if line.startswith("!")) == sorted(copied)
    assert "--require-hashes -r requirements.lock" in DOCKERFILE
    assert DOCKERFILE.index("USER tidings") < DOCKERFILE.index("ENTRYPOINT")
