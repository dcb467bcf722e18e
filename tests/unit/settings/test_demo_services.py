"""The demo's push service keeps its port, which its devices were given, or says what to do."""

import socket
from pathlib import Path

import pytest

from tidings.demo.services import services
from tidings.errors import ConfigError
from tidings.settings import Settings


async def test_a_port_that_is_taken_is_named_with_the_fix(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        (tmp_path / "demo-push-port").write_text(str(port))
        with pytest.raises(ConfigError, match=f"could not start on port {port}, .* free that port"):
            async with services(Settings(data_dir=tmp_path)):
                pass
