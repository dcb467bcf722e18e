"""`compose.yaml` and the image: no engine starts them here, so each word in them is held against its rule."""

import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml  # type: ignore[import-untyped]  # its stubs are a package more

from tidings.cli import openapi
from tidings.cli.app import build
from tidings.runtime import _POOL
from tidings.settings import Role, Settings
from tidings.worker.worker import WRITES_WITHIN

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "tests/data/compose-spec/compose-spec.json").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
#: what a person puts into `.env`
ENV = {
    "POSTGRES_PASSWORD": "4f5c",
    "TIDINGS_SECRET_KEY": "s" * 64,
    "TIDINGS_USER_SECRET": "u" * 64,
    "TIDINGS_FRONTEND_URL": "https://shop.example",
    "TIDINGS_VAPID_SUBJECT": "mailto:ops@shop.example",
}
OURS = {name: service for name, service in COMPOSE["services"].items() if service.get("build")}
_VARIABLE = re.compile(r"\$\{([A-Z_]+):\?[^}]+\}")
_URL = re.compile(r"http://127\.0\.0\.1:(\d+)(/[a-z/]+)")


def interpolated(value: object) -> object:
    """Return a value as Compose would give it to a container."""
    if isinstance(value, Mapping):
        return {key: interpolated(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [interpolated(inner) for inner in value]
    return _VARIABLE.sub(lambda found: ENV[found[1]], value) if isinstance(value, str) else value


def environment(service: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables of a container: the image's, then the service's."""
    of_image = dict(re.findall(r"^(?:ENV|   ) (TIDINGS_[A-Z_]+)=(\S+)", DOCKERFILE, re.MULTILINE))
    given: Any = interpolated(service["environment"])
    return {**of_image, **given}


def probes(service: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """Yield port and path of what the health check of a service asks."""
    check = service.get("healthcheck", {})
    if not check.get("disable"):
        yield from ((int(port), path) for port, path in _URL.findall(json.dumps(check) if check else DOCKERFILE))


def seconds(duration: str) -> float:
    assert re.fullmatch(r"\d+s", duration), f"{duration} is not in seconds"
    return float(duration[:-1])


def test_it_follows_the_compose_specification() -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(interpolated(COMPOSE))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(SCHEMA).validate({**COMPOSE, "service": {}})


def test_every_variable_that_is_needed_is_named_at_its_head() -> None:
    text = (ROOT / "compose.yaml").read_text()
    assert set(_VARIABLE.findall(text)) == set(ENV)
    assert re.findall(r"\$\{(?![A-Z_]+:\?)", text) == [], "a variable that may be missing"
    assert [name for name in ENV if f"#   {name}=" not in text] == []


@pytest.mark.parametrize("name", OURS)
def test_every_setting_exists_and_fits_the_process(name: str, tmp_path: Path) -> None:
    variables = environment(OURS[name])
    known = {f"TIDINGS_{field.upper()}" for field in Settings.model_fields}
    assert set(variables) - known == set()
    settings = Settings.load(folder=tmp_path, environ=variables)
    assert settings.public
    assert not settings.migrate, "the schema is changed by `migrate` alone"
    assert settings.generated_secrets() == []
    if name != "migrate":
        settings.refuse_for(Role(name))


@pytest.mark.parametrize("name", OURS)
def test_every_command_is_one_of_ours(name: str) -> None:
    assert 'ENTRYPOINT ["tidings"]' in DOCKERFILE
    command, _, _ = build().parse_args(OURS[name]["command"], exit_on_error=False, print_error=False)
    assert command.__module__.startswith("tidings.cli.")


def test_health_checks_ask_what_is_answered_there(capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(openapi.openapi())
    routes = json.loads(capsys.readouterr().out)["paths"]
    asked = {name: list(probes(service)) for name, service in OURS.items()}
    assert asked == {"migrate": [], "api": [(8000, "/health/ready")], "worker": [(8001, "/health/worker")]}
    assert {path for found in asked.values() for _, path in found} <= set(routes)
    assert OURS["worker"]["command"][-2:] == ["--port", "8001"]
    assert Settings.model_fields["port"].default == 8000


def test_a_stop_has_the_time_that_draining_takes() -> None:
    for service in OURS.values():
        drain = float(environment(service)["TIDINGS_DRAIN_SECONDS"])
        assert drain + WRITES_WITHIN < seconds(service["stop_grace_period"])


def test_the_database_has_connections_for_all_pools() -> None:
    (allowed,) = re.findall(r"max_connections=(\d+)", " ".join(COMPOSE["services"]["postgres"]["command"]))
    workers = COMPOSE["services"]["worker"]["deploy"]["replicas"]
    # twice: in a rolling upgrade old and new ones run side by side; 3 are PostgreSQL's own
    wanted = 2 * (_POOL[Role.API] + workers * _POOL[Role.WORKER]) + _POOL[Role.CLIENT] + 3
    assert workers == 2
    assert wanted <= int(allowed)


def test_what_is_waited_for_can_be_told() -> None:
    services = COMPOSE["services"]
    for service in services.values():
        for name, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert services[name]["healthcheck"]["test"]


def test_the_queue_keeps_what_it_holds() -> None:
    command = " ".join(COMPOSE["services"]["valkey"]["command"])
    assert "--appendonly yes --appendfsync everysec --maxmemory-policy noeviction" in command


def test_what_must_outlive_a_container_lies_in_a_volume() -> None:
    mounted = {volume.partition(":")[0] for service in COMPOSE["services"].values() for volume in service["volumes"]}
    assert mounted == set(COMPOSE["volumes"])


def test_nothing_but_the_api_is_reachable_and_that_from_this_machine_alone() -> None:
    published = {name: service["ports"] for name, service in COMPOSE["services"].items() if "ports" in service}
    assert published == {"api": ["127.0.0.1:8000:8000"]}


def test_the_image_is_made_of_what_is_there_and_pinned() -> None:
    copied = [name for names in re.findall(r"^COPY (.+) \./\S*$", DOCKERFILE, re.MULTILINE) for name in names.split()]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert sorted(line[1:] for line in ignored if line.startswith("!")) == sorted(copied)
    assert "--require-hashes -r requirements.lock" in DOCKERFILE
    assert DOCKERFILE.index("USER tidings") < DOCKERFILE.index("ENTRYPOINT")
