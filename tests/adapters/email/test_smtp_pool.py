"""The pool of connections to a relay, against real SMTP servers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.support.smtp_relays import greet, run_relay, run_script, write_certificate

from tidings.channels.email.relay import parse_relay
from tidings.channels.email.smtp_connection import SmtpTimeouts
from tidings.channels.email.smtp_exchange import Envelope, SmtpExchange, Stage
from tidings.channels.email.smtp_pool import PoolLimits, SmtpPool

CONTENT = b"Subject: Hi\r\n\r\nHello\r\n"


POOLS: list[SmtpPool] = []


@pytest.fixture(autouse=True)
async def _close_pools() -> AsyncIterator[None]:
    yield
    while POOLS:
        POOLS.pop().close()
    # transports close in the next iteration of the loop
    await asyncio.sleep(0)


def make_pool(port: int, options: str = "", login: str = "", **limits: float) -> SmtpPool:
    timeouts = SmtpTimeouts(**{name: limits.pop(name) for name in ("connect", "command", "content") if name in limits})
    pool = SmtpPool(
        parse_relay(f"smtp://{login}127.0.0.1:{port}{options}"),
        local_hostname="client.test",
        limits=PoolLimits(**limits),  # type: ignore[arg-type]  # names of fields
        timeouts=timeouts,
    )
    POOLS.append(pool)
    return pool


async def send(
    pool: SmtpPool, to: str = "ann@example.com", content: bytes = CONTENT, within: float = 10
) -> SmtpExchange:
    return await pool.send(Envelope("news@shop.example", to, content), asyncio.get_running_loop().time() + within)


@pytest.mark.parametrize("has_pipelining", [True, False])
async def test_a_message_arrives_unchanged(has_pipelining: bool) -> None:
    content = b"Subject: Dots\r\n\r\n.one\r\n..two\r\n.\r\nend\r\n"
    async with run_relay(has_pipelining=has_pipelining) as relay:
        pool = make_pool(relay.port)
        exchange = await send(pool, content=content)
    assert exchange.is_accepted
    assert exchange.reply is not None
    assert exchange.reply.queue_id == "Q1"
    assert [(mail.mail_from, mail.rcpt_tos, mail.content) for mail in relay.accepted] == [
        ("news@shop.example", ["ann@example.com"], content)
    ]


async def test_commands_are_sent_in_one_group_where_the_relay_offers_pipelining() -> None:
    groups: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, "PIPELINING")
        # all three commands arrive although none was answered
        groups.append(await reader.readuntil(b"DATA\r\n"))
        writer.write(b"250 OK\r\n250 OK\r\n354 Go\r\n")
        await reader.readuntil(b"\r\n.\r\n")
        writer.write(b"250 OK\r\n")
        await reader.read()

    async with run_script(serve) as port:
        pool = make_pool(port)
        assert (await send(pool)).is_accepted
    assert groups == [b"MAIL FROM:<news@shop.example>\r\nRCPT TO:<ann@example.com>\r\nDATA\r\n"]


async def test_a_hundred_concurrent_sends_share_five_connections() -> None:
    async with run_relay() as relay:
        pool = make_pool(relay.port, size=5)
        exchanges = await asyncio.gather(*(send(pool, f"user{number}@example.com") for number in range(100)))
        assert pool.idle == 5
    assert all(exchange.is_accepted for exchange in exchanges)
    assert len(set(relay.recipients)) == len(relay.recipients) == 100
    assert relay.connections == relay.ehlos == 5


async def test_a_connection_is_replaced_after_its_maximum_of_messages() -> None:
    async with run_relay() as relay:
        pool = make_pool(relay.port, size=1, max_messages=3)
        for _ in range(7):
            assert (await send(pool)).is_accepted
    assert relay.connections == 3


@pytest.mark.parametrize("has_pipelining", [True, False])
@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA"])
async def test_a_refusal_never_disturbs_the_next_message(command: str, has_pipelining: bool) -> None:
    refused = {f"user{number}@example.com" for number in range(0, 30, 3)}
    counter = iter(range(30))

    def refuse(argument: str) -> str | None:
        is_refused = argument in refused if command != "MAIL" else next(counter) % 3 == 0
        return "450 4.2.1 try later" if is_refused else None

    async with run_relay(has_pipelining=has_pipelining) as relay:
        relay.replies[command] = refuse
        pool = make_pool(relay.port, size=1)
        exchanges = [await send(pool, f"user{number}@example.com") for number in range(30)]
    codes = {exchange.reply.code for exchange in exchanges if exchange.reply is not None}
    assert codes == {250, 450}, "a reply 503 would mean that a transaction was still open"
    assert len(relay.accepted) == 20
    assert relay.connections == 1


async def test_a_connection_that_the_relay_closed_while_idle_is_replaced() -> None:
    async with run_relay() as relay:
        pool = make_pool(relay.port)
        assert (await send(pool)).is_accepted
        for transport in relay.transports:
            transport.close()
        assert (await send(pool)).is_accepted
    assert relay.connections == 2


async def test_a_farewell_to_an_idle_connection_is_not_taken_for_a_reply() -> None:
    async def say_farewell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, "PIPELINING")
        await reader.readuntil(b"DATA\r\n")
        writer.write(b"250 OK\r\n250 OK\r\n354 Go\r\n")
        await reader.readuntil(b"\r\n.\r\n")
        writer.write(b"250 OK\r\n421 4.4.2 idle for too long\r\n")
        await reader.read()

    async with run_script(say_farewell) as port:
        pool = make_pool(port)
        exchanges = [await send(pool) for _ in range(3)]
    assert all(exchange.is_accepted for exchange in exchanges)


async def test_an_unused_connection_is_closed_after_a_while() -> None:
    async with run_relay() as relay:
        pool = make_pool(relay.port, max_idle=0.05)
        assert (await send(pool)).is_accepted
        while pool.idle:
            await asyncio.sleep(0.01)
        assert relay.connections == 1


async def test_a_connection_that_breaks_before_the_end_of_the_message_has_sent_nothing() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, "PIPELINING")
        await reader.readuntil(b"DATA\r\n")
        writer.write(b"250 OK\r\n250 OK\r\n")

    async with run_script(serve) as port:
        exchange = await send(make_pool(port))
    assert exchange.stage is Stage.DATA
    assert not exchange.is_uncertain
    assert exchange.is_disconnected


@pytest.mark.parametrize("is_closed", [True, False])
async def test_a_missing_reply_to_the_message_is_uncertain(is_closed: bool) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, "PIPELINING")
        await reader.readuntil(b"DATA\r\n")
        writer.write(b"250 OK\r\n250 OK\r\n354 Go\r\n")
        await reader.readuntil(b"\r\n.\r\n")
        if not is_closed:
            await reader.read()

    async with run_script(serve) as port:
        exchange = await send(make_pool(port, content=0.1))
    assert exchange.stage is Stage.CONTENT
    assert exchange.reply is None
    assert exchange.is_uncertain


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def hang_after_ehlo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await greet(reader, writer, "PIPELINING")
    await reader.read()


async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await greet(reader, writer, "PIPELINING")
    await reader.readuntil(b"DATA\r\n")
    writer.write(b"250-" + b"x" * 100_000)
    await reader.read()


@pytest.mark.parametrize(
    ("serve", "stage", "why"),
    [
        (hang, Stage.CONNECT, "did not answer in time"),
        (hang_after_ehlo, Stage.MAIL, "no reply to MAIL FROM in time"),
        (flood, Stage.MAIL, "a line that is too long"),
    ],
)
async def test_every_wait_has_a_deadline(serve: Callable[..., object], stage: Stage, why: str) -> None:
    async with run_script(serve) as port:  # type: ignore[arg-type]  # a script
        pool = make_pool(port, connect=0.2, command=0.2)
        async with asyncio.timeout(2):
            exchange = await send(pool)
        assert pool.idle == 0
    assert exchange.stage is stage
    assert why in exchange.why
    assert not exchange.is_uncertain


async def test_a_send_ends_at_its_deadline_while_all_connections_are_in_use() -> None:
    async with run_script(hang_after_ehlo) as port:
        pool = make_pool(port, size=1, command=30)
        first = asyncio.create_task(send(pool, within=60))
        await asyncio.sleep(0)
        exchange = await send(pool, within=1.05)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
    assert exchange.is_busy
    assert "in use" in exchange.why


async def test_a_cancelled_send_closes_its_connection() -> None:
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, "PIPELINING")
        await reader.readuntil(b"DATA\r\n")
        started.set()
        await reader.read()
        closed.set()

    started = asyncio.Event()
    async with run_script(serve) as port:
        pool = make_pool(port)
        task = asyncio.create_task(send(pool))
        await started.wait()
        task.cancel()
        async with asyncio.timeout(2):
            await closed.wait()
        assert pool.idle == 0


async def test_a_relay_that_waits_for_a_message_after_refusing_the_recipient_gets_an_empty_one() -> None:
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, "PIPELINING")
        await reader.readuntil(b"DATA\r\n")
        writer.write(b"250 OK\r\n550 5.1.1 unknown\r\n354 Go\r\n")
        received.append(await reader.readuntil(b".\r\n"))
        writer.write(b"554 5.5.1 no valid recipients\r\n")
        received.append(await reader.readuntil(b"\r\n"))
        writer.write(b"250 OK\r\n")
        await reader.read()

    async with run_script(serve) as port:
        pool = make_pool(port)
        exchange = await send(pool)
        assert pool.idle == 1
    assert exchange.reply is not None
    assert (exchange.stage, exchange.reply.enhanced) == (Stage.RCPT, "5.1.1")
    assert received == [b".\r\n", b"RSET\r\n"]


async def test_tls_and_login_come_before_the_first_message(tmp_path: Path) -> None:
    async with run_relay(tls=write_certificate(tmp_path), logins={"ann@x": "p@ss/word"}) as relay:
        pool = make_pool(relay.port, "?tls=unverified", "ann%40x:p%40ss%2Fword@")
        exchanges = await asyncio.gather(*(send(pool) for _ in range(20)))
    assert all(exchange.is_accepted for exchange in exchanges)
    assert {session.ssl is not None for session in relay.sessions if session.authenticated} == {True}


async def test_an_invalid_certificate_stops_the_connection(tmp_path: Path) -> None:
    async with run_relay(tls=write_certificate(tmp_path)) as relay:
        exchange = await send(make_pool(relay.port))
    assert exchange.stage is Stage.CONNECT
    assert "certificate" in exchange.why
    assert relay.accepted == []


async def test_a_wrong_password_is_a_refusal_of_the_login() -> None:
    async with run_relay(logins={"ann": "right"}) as relay:
        exchange = await send(make_pool(relay.port, login="ann:wrong@"))
    assert exchange.stage is Stage.AUTH
    assert exchange.reply is not None
    assert exchange.reply.code == 535
    assert "wrong" not in str(exchange)


async def test_a_message_above_the_announced_size_is_not_sent() -> None:
    async with run_relay(data_size_limit=1000) as relay:
        exchange = await send(make_pool(relay.port), content=b"x" * 2000)
    assert exchange.reply is not None
    assert exchange.reply.code == 552
    assert relay.transactions == 0


@pytest.mark.parametrize("address", ["a@b.example>\r\nRCPT TO:<eve@evil.example", "a b@c.example", "<a@b.example>"])
async def test_an_address_cannot_add_a_command(address: str) -> None:
    async with run_relay() as relay:
        exchange = await send(make_pool(relay.port), address)
    assert not exchange.is_accepted
    assert relay.transactions == 0


async def test_a_closed_port_is_named() -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    exchange = await send(make_pool(port))
    assert exchange.stage is Stage.CONNECT
    assert "cannot connect to 127.0.0.1:" in exchange.why
