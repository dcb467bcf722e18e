"""`tidings doctor` names why a Redis that responds refuses writes."""

import json
from collections.abc import Iterator

import pytest

from tidings.cli.app import run
from tidings.testing.valkey import ValkeyServer


@pytest.fixture(scope="module")
def own_valkey() -> Iterator[ValkeyServer]:
    """A server that these tests reconfigure."""
    with ValkeyServer(append_only=True) as valkey:
        yield valkey


@pytest.mark.parametrize(
    ("refuse", "restore", "message"),
    [
        (["REPLICAOF", "127.0.0.1", "1"], ["REPLICAOF", "NO", "ONE"], "(READONLY): it is a read-only replica"),
        (["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"], "(OOM): it has reached maxmemory"),
        (
            ["CONFIG", "SET", "min-replicas-to-write", "1"],
            ["CONFIG", "SET", "min-replicas-to-write", "0"],
            "(NOREPLICAS): too few replicas",
        ),
        (["ACL", "SETUSER", "default", "-set"], ["ACL", "SETUSER", "default", "+set"], "(NOPERM): its user may not"),
    ],
    ids=["READONLY", "OOM", "NOREPLICAS", "NOPERM"],
)
def test_doctor_names_why_writes_are_refused(
    own_valkey: ValkeyServer,
    refuse: list[str],
    restore: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TIDINGS_REDIS", own_valkey.url)
    assert own_valkey.send_command(*refuse) == b"+OK"
    try:
        assert run(["doctor", "--json"]) == 1
    finally:
        own_valkey.send_command(*restore)
    found = [check for check in json.loads(capsys.readouterr().out)["checks"] if check["check"] == "redis"]
    assert [check["level"] for check in found] == ["problem"]
    assert message in found[0]["message"]
    assert run(["doctor", "--json"]) == 0
