"""The box office as a FastAPI application. `HOST_DATABASE` is the SQLAlchemy URL of the database of Tidings."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field
from sqlalchemy import insert, update
from sqlalchemy.ext.asyncio import create_async_engine

from tickets_host import metadata, seats, shows
from tidings import Tidings
from tidings.model.audience import NamedSet


class Show(BaseModel):
    """A show and its visitors, who are users of Tidings."""

    title: str = Field(max_length=200)
    hall: str = Field(max_length=200)
    visitors: list[str] = []


class Move(BaseModel):
    """The new hall of a show."""

    hall: str = Field(max_length=200)


engine = create_async_engine(os.environ["HOST_DATABASE"])
tidings = Tidings.from_env()


@asynccontextmanager
async def run_host(_: FastAPI) -> AsyncIterator[None]:
    """Open the client of Tidings and create the tables of the host."""
    async with tidings:
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        yield
    await engine.dispose()


app = FastAPI(title="Box office", lifespan=run_host)


@app.post("/shows", status_code=201)
async def add_show(show: Show) -> dict[str, int]:
    """Add a show with its visitors."""
    async with engine.begin() as connection:
        added = insert(shows).values(title=show.title, hall=show.hall).returning(shows.c.id)
        show_id: int = (await connection.execute(added)).scalar_one()
        if show.visitors:
            await connection.execute(
                insert(seats), [{"show_id": show_id, "visitor": visitor} for visitor in show.visitors]
            )
    return {"id": show_id}


@app.post("/shows/{show_id}/move")
async def move_show(show_id: int, move: Move) -> dict[str, str]:
    """Move a show to another hall, and notify its visitors in the same transaction."""
    async with engine.begin() as connection:
        moved = update(shows).where(shows.c.id == show_id).values(hall=move.hall).returning(shows.c.title)
        title = (await connection.execute(moved)).scalar_one_or_none()
        if title is None:
            raise HTTPException(404, "there is no such show")
        handle = await tidings.notify(
            "SHOW_CHANGED",
            to=NamedSet("visitors", {"showId": str(show_id)}),
            variables={"showId": show_id, "title": title, "hall": move.hall},
            conn=connection,
        )
    return {"notification": handle.id}
