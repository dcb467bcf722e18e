"""The host of a stream: serves the player page, and gives each visitor the address of the live room.

Settings: `TIDINGS_URL`, `TIDINGS_API_KEY` (scope `notify`), `STREAM_EVENT` (id of the event).
"""

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

from fastapi import FastAPI
from fastapi.responses import FileResponse

FOLDER = Path(__file__).parent
TIDINGS = os.environ.get("TIDINGS_URL", "http://127.0.0.1:8000").rstrip("/")

app = FastAPI()


@app.get("/")
def show_page() -> FileResponse:
    """Serve the player page."""
    return FileResponse(FOLDER / "player.html")


@app.get("/player.js")
def show_script() -> FileResponse:
    """Serve the player's script."""
    return FileResponse(FOLDER / "player.js", media_type="text/javascript")


@app.post("/room")
def open_room(visitor: str) -> dict[str, str]:
    """Return the address of the live room, with a ticket that is valid once.

    A real host takes the visitor from its own session. The user token stays on the server; the page sees tickets only.
    """
    token = call("POST", f"/api/users/{quote(visitor, safe='')}/token", os.environ["TIDINGS_API_KEY"])["token"]
    ticket = call("POST", "/api/tickets", token)["ticket"]
    address = TIDINGS.replace("http", "ws", 1)
    return {"url": f"{address}/api/streams/{os.environ['STREAM_EVENT']}/ws?ticket={quote(ticket)}"}


def call(method: str, path: str, credential: str) -> Any:
    """Send a request without fields to Tidings, and return the JSON response. Raises URLError."""
    headers = {"Authorization": f"Bearer {credential}", "Content-Type": "application/json"}
    with urlopen(Request(TIDINGS + path, b"{}", headers, method=method), timeout=5) as response:  # noqa: S310
        return json.load(response)
