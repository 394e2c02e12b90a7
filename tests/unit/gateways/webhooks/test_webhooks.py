"""Webhooks: posted, signed, tried again, bounded; and what they may not reach."""

import asyncio
import ipaddress
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import httpx
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_binary_event, from_structured_event
from standardwebhooks import Webhook as Verifier

import tidings
from tests.integration.processes import eventually
from tests.unit.gateways.webhooks.receiver import Receiver
from tidings.client import Client
from tidings.config import parse_address
from tidings.errors import InvalidFilter, InvalidName, InvalidOption, NotFound, SubscriptionConflict
from tidings.gateways.webhooks import addresses
from tidings.gateways.webhooks.addresses import is_allowed
from tidings.gateways.webhooks.poster import Poster, Unreachable
from tidings.gateways.webhooks.signing import signed_headers
from tidings.server import Server
from tidings.store.memory import MemoryStore

DEADLINE_S = 20
LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]
SECRET = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo="


@asynccontextmanager
async def served(store: MemoryStore | None = None, *, allowed: bool = True) -> AsyncIterator[tuple[Client, str]]:
    """Runs a server; gives a client of it and its HTTP URL."""
    server = Server(store or MemoryStore(), webhook_networks=LOOPBACK if allowed else [])
    ready: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
    listen = [parse_address("tidings://127.0.0.1:0"), parse_address("http://127.0.0.1:0")]
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(server.run(listen, ready.set_result))
        native, http = await ready
        async with tidings.connect(native) as client:
            yield client, http
        await server.drain()


async def lag(client: Client, name: str) -> int:
    return sum(info.lag for info in await client.subscriptions() if info.name == name)


async def test_a_message_is_posted_signed_and_acked_by_a_2xx() -> None:
    async with Receiver() as receiver, served() as (client, _):
        secret = await client.put_webhook("shop", receiver.url, "orders", "created")
        assert secret is not None
        await client.publish("orders", "created", {"id": 7}, key="k")
        await client.publish("orders", "other", {"id": 8})
        posted = await receiver.requests.get()
        assert posted.target == "/hooks?shop=1"
        assert posted.headers["host"] == f"127.0.0.1:{receiver.port}"
        assert posted.headers["content-type"] == "application/json"
        message = Verifier(secret).verify(posted.body, posted.headers)
        assert (message["event"], message["payload"], message["key"], message["attempt"]) == (
            "created",
            {"id": 7},
            "k",
            1,
        )
        assert posted.headers["webhook-id"] == f"shop-{message['epoch']:x}-{message['sequence']}"

        async def settled() -> bool:
            return await lag(client, "shop") == 0

        await eventually(settled)
        assert receiver.requests.empty()


async def test_it_begins_when_it_was_made_even_if_nobody_could_post_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    async def posts_nothing(server: Server) -> None:
        pass

    store = MemoryStore()
    async with Receiver() as receiver:
        with monkeypatch.context() as patched:
            patched.setattr(Server, "_post_webhooks", posts_nothing)
            async with served(store) as (client, _):
                await client.publish("orders", "created", "before")
                before_ms = time.time_ns() // 1_000_000
                while time.time_ns() // 1_000_000 <= before_ms:
                    pass  # both times are whole milliseconds, and are to differ
                await client.put_webhook("shop", receiver.url, "orders")
                await client.publish("orders", "created", "after")
        async with served(store) as (client, _):
            assert (await receiver.requests.get()).json["payload"] == "after"
            await client.put_webhook("all", receiver.url, "orders", start="earliest", concurrency=1)
            assert [(await receiver.requests.get()).json["payload"] for _ in range(2)] == ["before", "after"]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 4\r\n\r\noops",
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 301 Moved Permanently\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\n",  # ends before its head does
        b"nonsense\r\n\r\n",
        b"",
    ],
)
async def test_what_is_no_2xx_is_tried_again_under_the_same_id(answer: bytes) -> None:
    async with Receiver() as receiver, served() as (client, _):
        receiver.answers = [answer]
        await client.put_webhook("shop", receiver.url, "orders", secret=SECRET)
        await eventually(lambda: attached(client, "shop"))
        await client.configure_subscription("shop", backoff_min=0.001, backoff_max=0.001)
        await client.publish("orders", "created", 1)
        first, second = await receiver.requests.get(), await receiver.requests.get()
        assert (first.json["attempt"], second.json["attempt"]) == (1, 2)
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        assert second.target == "/hooks?shop=1", "redirects are not followed"


async def attached(client: Client, name: str) -> bool:
    return any(info.connected for info in await client.subscriptions() if info.name == name)


async def test_after_its_attempts_a_message_is_a_dead_letter_that_says_what_was_answered() -> None:
    async with Receiver() as receiver, served() as (client, _):
        receiver.answers = [b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy"] * 2
        await client.put_webhook("shop", receiver.url, "orders")
        await eventually(lambda: attached(client, "shop"))
        await client.configure_subscription("shop", backoff_min=0.001, backoff_max=0.001, attempts_max=2)
        await client.publish("orders", "created", 1)

        async def dead() -> bool:
            return any(info.dead for info in await client.subscriptions())

        await eventually(dead)
        [letter] = [letter async for letter in client.dead_letters("shop")]
        assert letter.failure is not None
        assert (letter.failure.type, letter.failure.text) == ("HTTP 503 Service Unavailable", "busy")
        assert receiver.url in letter.failure.place


async def test_an_answer_may_say_when_to_try_again() -> None:
    async with Receiver() as receiver, served() as (client, _):
        receiver.answers = [b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 3600\r\ncontent-length: 0\r\n\r\n"]
        await client.put_webhook("shop", receiver.url, "orders")
        await eventually(lambda: attached(client, "shop"))
        await client.configure_subscription("shop", backoff_min=0.001, backoff_max=0.001)
        await client.publish("orders", "created", 1)
        await client.publish("orders", "created", 2)
        assert sorted([(await receiver.requests.get()).json["payload"] for _ in range(2)]) == [1, 2]

        async def waits() -> bool:
            return any(info.retrying == 1 and info.in_flight == 0 for info in await client.subscriptions())

        await eventually(waits)
        assert receiver.requests.empty()


async def test_no_answer_in_time_is_a_failure() -> None:
    async with Receiver() as receiver, served() as (client, _):
        receiver.gate.clear()
        await client.put_webhook("shop", receiver.url, "orders", request_timeout=0.1)
        await eventually(lambda: attached(client, "shop"))
        await client.configure_subscription("shop", attempts_max=1)
        await client.publish("orders", "created", 1)

        async def dead() -> bool:
            return any(info.dead for info in await client.subscriptions())

        await eventually(dead)
        [letter] = [letter async for letter in client.dead_letters("shop")]
        assert letter.failure is not None
        assert (letter.failure.type, letter.failure.text) == ("TimedOut", "no answer within 100 ms")


async def test_410_gone_disables_it_until_it_is_put_again_and_nothing_is_lost() -> None:
    store = MemoryStore()
    async with Receiver() as receiver:
        async with served(store) as (client, url), httpx.AsyncClient(base_url=url, trust_env=False) as http:
            receiver.answers = [b"HTTP/1.1 410 Gone\r\ncontent-length: 5\r\n\r\nmoved"]
            await client.put_webhook("shop", receiver.url, "orders", concurrency=2)
            await client.publish("orders", "created", 1)

            async def disabled() -> bool:
                [info] = await client.webhooks()
                return info.disabled == "HTTP 410 Gone: moved" and not await attached(client, "shop")

            await eventually(disabled)
            assert (await http.get("/webhooks/shop")).json()["disabled"] == "HTTP 410 Gone: moved"
            assert (await receiver.requests.get()).json["payload"] == 1
            await client.publish("orders", "created", 2)
        async with served(store) as (client, _):
            await client.publish("orders", "created", 3)
            assert (await lag(client, "shop"), await attached(client, "shop")) == (3, False)
            assert receiver.requests.empty()
            assert await client.put_webhook("shop", receiver.url, "orders", concurrency=1) is None
            posted = [(await receiver.requests.get()).json for _ in range(3)]
            assert [(each["payload"], each["attempt"]) for each in posted] == [(1, 1), (2, 1), (3, 1)]
            assert [info.disabled for info in await client.webhooks()] == [""]


@pytest.mark.parametrize("mode", ["structured", "binary"])
async def test_cloudevents_are_posted_as_their_sdk_reads_them(mode: Literal["structured", "binary"]) -> None:
    async with Receiver() as receiver, served() as (client, _):
        secret = await client.put_webhook("shop", receiver.url, "orders", cloudevents=mode)
        assert secret is not None
        await client.publish("orders", "created", {"grün": 7}, key="k 1", headers={"ce-subject": "Größe"})
        posted = await receiver.requests.get()
        read = from_binary_event if mode == "binary" else from_structured_event
        got = read(HTTPMessage(posted.headers, posted.body))
        assert (got.get_type(), got.get_source(), got.get_data()) == ("created", "/queues/orders", {"grün": 7})
        assert (got.get_subject(), got.get_attributes()["partitionkey"]) == ("Größe", "k 1")
        Verifier(secret).verify(posted.body, posted.headers)
        [info] = await client.webhooks()
        assert info.cloudevents == mode


async def test_no_more_requests_than_allowed_are_under_way_and_connections_are_kept() -> None:
    async with Receiver() as receiver, served() as (client, _):
        receiver.gate.clear()
        await client.put_webhook("shop", receiver.url, "orders", concurrency=3)
        for number in range(20):
            await client.publish("orders", "created", number)
        first = [await receiver.requests.get() for _ in range(3)]
        assert receiver.requests.empty()
        receiver.gate.set()
        rest = [await receiver.requests.get() for _ in range(17)]
        assert sorted(posted.json["payload"] for posted in first + rest) == list(range(20))
        assert receiver.at_once_max == 3
        assert receiver.connections == 3


async def test_certificates_of_authorities_are_read_once_for_all_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[ssl.SSLContext] = []
    make = ssl.create_default_context

    def noted() -> ssl.SSLContext:
        made.append(make())
        return made[-1]

    monkeypatch.setattr(ssl, "create_default_context", noted)
    for host in ("a.example", "b.example", "a.example"):
        Poster(f"https://{host}/", [], 1_000)
    assert len(made) <= 1, "one takes tens of milliseconds, and a webhook has up to 64 connections"


async def test_a_receiver_that_is_not_there_is_told_as_such() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        await Poster(f"http://127.0.0.1:{port}/", LOOPBACK, DEADLINE_S * 1000).post([], b"")


async def test_with_one_at_once_the_order_is_kept() -> None:
    async with Receiver() as receiver, served() as (client, _):
        await client.put_webhook("shop", receiver.url, "orders", concurrency=1)
        for number in range(30):
            await client.publish("orders", "created", number)
        assert [(await receiver.requests.get()).json["payload"] for _ in range(30)] == list(range(30))


async def test_a_kept_connection_that_was_closed_meanwhile_is_made_anew_without_a_failed_attempt() -> None:
    async with Receiver() as receiver, served() as (client, _):
        await client.put_webhook("shop", receiver.url, "orders", concurrency=1)
        await client.publish("orders", "created", 1)
        await receiver.requests.get()
        await eventually(lambda: _settled(client, "shop"))
        receiver.hang_up()
        await client.publish("orders", "created", 2)
        posted = await receiver.requests.get()
        assert (posted.json["payload"], posted.json["attempt"]) == (2, 1)


async def _settled(client: Client, name: str) -> bool:
    return await lag(client, name) == 0 and await attached(client, name)


async def test_webhooks_survive_a_restart_and_changes_take_effect() -> None:
    store = MemoryStore()
    async with Receiver() as receiver, Receiver() as other:
        async with served(store) as (client, _):
            await client.put_webhook("shop", receiver.url, "orders", secret=SECRET)
        async with served(store) as (client, _):
            [info] = await client.webhooks()
            assert (info.name, info.url, info.queue, info.event) == ("shop", receiver.url, "orders", "#")
            await client.publish("orders", "created", 1)
            posted = await receiver.requests.get()
            Verifier(SECRET).verify(posted.body, posted.headers)
            assert await client.put_webhook("shop", other.url, "orders") is None
            await client.publish("orders", "created", 2)
            posted = await other.requests.get()
            assert posted.json["payload"] == 2
            Verifier(SECRET).verify(posted.body, posted.headers)
            await client.delete_webhook("shop")
            assert await client.webhooks() == []
            await eventually(lambda: _free(client, "shop"))
            await client.publish("orders", "created", 3)
            assert await lag(client, "shop") == 1
        async with served(store) as (client, _):
            assert await client.webhooks() == []
            assert other.requests.empty()


async def _free(client: Client, name: str) -> bool:
    return not await attached(client, name)


async def test_private_addresses_are_refused_unless_allowed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with Receiver() as receiver, served(allowed=False) as (client, _):
        await client.put_webhook("shop", receiver.url, "orders")
        await eventually(lambda: attached(client, "shop"))
        await client.configure_subscription("shop", attempts_max=1)
        await client.publish("orders", "created", 1)

        async def dead() -> bool:
            return any(info.dead for info in await client.subscriptions())

        await eventually(dead)
        [letter] = [letter async for letter in client.dead_letters("shop")]
        assert letter.failure is not None
        assert letter.failure.type == "Unreachable"
        assert "--allow-webhook 127.0.0.1" in letter.failure.text
        assert receiver.connections == 0


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("127.8.8.8", False),
        ("10.0.0.1", False),
        ("172.16.5.5", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("240.0.0.1", False),
        ("::", False),
        ("::1", False),
        ("fe80::1", False),
        ("fc00::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::808:808", True),
        ("2002:7f00:1::", False),
        ("2001:db8::1", False),
    ],
)
def test_addresses_of_the_internet_are_allowed_and_no_others(address: str, allowed: bool) -> None:
    parsed = ipaddress.ip_address(address)
    assert is_allowed(parsed, []) is allowed
    assert is_allowed(parsed, [ipaddress.ip_network(f"{address}/{parsed.max_prefixlen}")]) is True


async def test_each_address_of_a_name_is_tried_and_only_those_that_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    async def several(self: object, host: str, port: int, **_: object) -> list[object]:
        hosts = ["10.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.1"]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in hosts]

    open_connection = asyncio.open_connection

    async def connect(host: str, port: int, **options: object) -> object:
        tried.append(host)
        if host == "127.0.0.2":
            raise ConnectionRefusedError
        if host == "127.0.0.3":
            await asyncio.Event().wait()  # as one does whose packets are dropped
        return await open_connection(host, port)

    async with Receiver() as receiver:
        monkeypatch.setattr(asyncio.get_running_loop().__class__, "getaddrinfo", several)
        monkeypatch.setattr(asyncio, "open_connection", connect)
        poster = Poster(f"http://several.example:{receiver.port}/", LOOPBACK, 3_000)
        assert (await poster.post([], b"")).status == 204
        poster.close()
    assert tried == ["127.0.0.2", "127.0.0.3", "127.0.0.1"]


async def test_the_address_that_was_judged_is_the_one_that_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["8.8.8.8", "127.0.0.1"])

    async def rebinding(self: object, host: str, port: int, **_: object) -> list[object]:
        assert host == "rebound.example"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    connected: list[str] = []

    async def connect(host: str, port: int, **_: object) -> None:
        connected.append(host)
        raise OSError("nobody is there")

    monkeypatch.setattr(asyncio.get_running_loop().__class__, "getaddrinfo", rebinding)
    monkeypatch.setattr(asyncio, "open_connection", connect)
    with pytest.raises(OSError, match="nobody"):
        await Poster("https://rebound.example/x", [], 1_000).post([], b"")
    assert connected == ["8.8.8.8"]
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1"):
        await addresses.look_up("rebound.example", 443, [])


def test_a_signature_is_the_one_of_the_standard() -> None:
    body = b'{"a":1}'
    headers = dict(signed_headers(SECRET, "msg_1", 1_700_000_000, body))
    expected = Verifier(SECRET).sign.__self__  # the same key
    assert headers["webhook-id"] == "msg_1"
    assert headers["webhook-timestamp"] == "1700000000"
    from datetime import UTC, datetime

    assert headers["webhook-signature"] == expected.sign(
        msg_id="msg_1", timestamp=datetime.fromtimestamp(1_700_000_000, UTC), data=body.decode()
    )


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"url": "ftp://a.example/"}, InvalidOption),
        ({"url": "https:///x"}, InvalidOption),
        ({"url": "https://user:pass@a.example/"}, InvalidOption),
        ({"url": "https://a.example/#f"}, InvalidOption),
        ({"url": "https://a.example/\r\nX: 1"}, InvalidOption),
        ({"url": "https://a.example/a b"}, InvalidOption),
        ({"url": "https://ä.example/"}, InvalidOption),
        ({"url": "https://a.example:99999/"}, InvalidOption),
        ({"url": "https://a.example/" + "x" * 2048}, InvalidOption),
        ({"secret": "hush"}, InvalidOption),
        ({"secret": "whsec_QQ=="}, InvalidOption),
        ({"secret": "whsec_!"}, InvalidOption),
        ({"concurrency": 0}, InvalidOption),
        ({"concurrency": 65}, InvalidOption),
        ({"request_timeout": 0.01}, InvalidOption),
        ({"name": "a b"}, InvalidName),
        ({"queue": "a..b"}, InvalidFilter),
        ({"event": "other"}, SubscriptionConflict),
    ],
)
async def test_what_can_never_work_is_refused(fields: dict[str, object], error: type[Exception]) -> None:
    async with served() as (client, _):
        await client.put_webhook("there", "https://a.example/", "orders", "created")
        given = {"name": "there", "url": "https://a.example/", "queue": "orders", "event": "created"} | fields
        with pytest.raises(error):
            await client.put_webhook(**given)  # type: ignore[arg-type]
        with pytest.raises(NotFound):
            await client.delete_webhook("nobody")


async def test_over_http_it_is_made_changed_looked_at_and_deleted() -> None:
    async with (
        Receiver() as receiver,
        served() as (client, url),
        httpx.AsyncClient(base_url=url, trust_env=False) as http,
    ):
        wanted = {"url": receiver.url, "queue": "orders", "from": "earliest"}
        answers = await asyncio.gather(*[http.put("/webhooks/shop", json=wanted) for _ in range(5)])
        assert sorted(answer.status_code for answer in answers) == [200] * 4 + [201]
        [secret] = [answer.json()["secret"] for answer in answers if "secret" in answer.json()]
        await client.publish("orders", "created", 1)
        posted = await receiver.requests.get()
        Verifier(secret).verify(posted.body, posted.headers)
        changed = await http.put("/webhooks/shop", json={"url": receiver.url, "queue": "orders", "concurrency": 2})
        assert (changed.status_code, changed.json()["concurrency"], "secret" in changed.json()) == (200, 2, False)
        assert (await http.get("/webhooks/shop")).json() == changed.json()
        assert (await http.get("/webhooks")).json() == [changed.json()]
        assert secret not in (await http.get("/webhooks")).text
        for body in ({"url": receiver.url}, {"url": receiver.url, "queue": "q", "colour": 1}, {"url": 1, "queue": "q"}):
            assert (await http.put("/webhooks/x", json=body)).status_code == 400
        refused = await http.put("/webhooks/x", json={"url": "ftp://x", "queue": "q"})
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_option")
        assert (await http.delete("/webhooks/shop")).status_code == 204
        assert (await http.get("/webhooks/shop")).status_code == 404
        assert (await http.delete("/webhooks/shop")).json()["code"] == "not_found"
