"""The demo's push service keeps its port, or reports how to free it."""

import socket
from pathlib import Path

import pytest

from tidings.config.settings import Settings
from tidings.demo.services import run_demo_services
from tidings.errors import ConfigError


async def test_a_port_that_is_taken_is_named_with_the_fix(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        (tmp_path / "demo-push-port").write_text(str(port))
        with pytest.raises(ConfigError, match=f"could not start on port {port}, .* free that port"):
            async with run_demo_services(Settings(data_dir=tmp_path)):
                pass
