"""Kills a host product again and again while its customers place orders."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

from pyreqwest.exceptions import PyreqwestError
from tests.support.host_process import HostProcess
from tests.support.server import eventually

CUSTOMERS = 3


async def place_orders_while_killed(
    host: HostProcess, place_order: Callable[[str], Awaitable[int]], *, kills: int, prefix: str
) -> list[str]:
    """Return the ids of the orders that the host confirmed.

    place_order: id of an order → status of the response. prefix: first part of the ids.
    """
    random_moment = random.Random(kills)
    confirmed: list[str] = []

    async def order_until_killed(customer: int, round_number: int) -> None:
        with suppress(PyreqwestError):
            for number in range(1000):
                order = f"{prefix}-{round_number}-{customer}-{number}"
                if await place_order(order) == 201:
                    confirmed.append(order)

    for round_number in range(kills):
        before = len(confirmed)
        customers = [asyncio.create_task(order_until_killed(one, round_number)) for one in range(CUSTOMERS)]

        async def has_orders(before: int = before) -> bool:
            return len(confirmed) >= before + 2

        await eventually(has_orders)
        await asyncio.sleep(random_moment.uniform(0, 0.05))
        await host.kill()
        await asyncio.gather(*customers)
        await host.start()
    return confirmed
