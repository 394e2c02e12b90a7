"""Failing messages: retried with backoff while others flow, given up into dead letters, redriven to who failed."""

# ruff: noqa: SIM117 (a subscription lives inside its client, and the nesting shows it)

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import tidings
from tests.integration.processes import Server, Subscriber, eventually, run_command


@asynccontextmanager
async def handling(client: tidings.Client) -> AsyncIterator[None]:
    """Runs the client's handlers meanwhile."""
    running = asyncio.ensure_future(client.run())
    try:
        yield
        assert not running.done(), running.result()
    finally:
        running.cancel()
        await asyncio.wait([running])


async def dead_letters(client: tidings.Client, subscription: str) -> list[tidings.DeadLetter]:
    return [letter async for letter in client.dead_letters(subscription)]


class Handled:
    """What a handler was called with: (payload, attempt, redriven)."""

    def __init__(self, failing: set[object]) -> None:
        self.calls: list[tuple[object, int, bool]] = []
        self.failing = failing

    def bill(self, message: tidings.Message) -> None:
        self.calls.append((message.payload, message.attempt, message.redriven))
        if message.payload in self.failing:
            raise KeyError("vat")


async def test_a_failing_message_is_retried_given_up_edited_and_redriven_after_a_kill(
    server: Server, tmp_path: Path
) -> None:
    handled, archived = Handled({"bad"}), Handled(set())
    async with (
        tidings.connect(server.url, client_id="billing") as billing,
        tidings.connect(server.url, client_id="archive") as archive,
    ):

        @billing.on("orders", name="billing", attempts_max=3, backoff_min=0.05, backoff_max=0.1)
        async def bill(message: tidings.Message) -> None:
            handled.bill(message)

        @archive.on("orders", name="archive")
        async def keep(message: tidings.Message) -> None:
            archived.bill(message)

        async with handling(billing), handling(archive):
            await eventually(lambda: _connected(archive, 2))
            await archive.publish("orders", "created", "bad", headers={"trace": "a1"})
            await archive.publish_many("orders", "created", range(200))
            await eventually(lambda: _dead(archive, "billing", 1))
            await eventually(lambda: len(archived.calls) == 201)
            attempts = [index for index, call in enumerate(handled.calls) if call[0] == "bad"]
            assert [handled.calls[index] for index in attempts] == [("bad", n, False) for n in (1, 2, 3)]
            assert attempts[1] > 1, "others are handled between its attempts"
            assert {call[0] for call in handled.calls} == {"bad", *range(200)}

            [letter] = await dead_letters(archive, "billing")
            assert (letter.payload, letter.headers, letter.sequence) == ("bad", {"trace": "a1"}, 1)
            assert (letter.reason, letter.attempts, letter.client_id) == ("attempts", 3, "billing")
            assert letter.failure is not None
            assert (letter.failure.type, letter.failure.text) == ("KeyError", "'vat'")
            assert letter.failure.place == "Handled.bill() in test_failing_messages.py"
            assert 'raise KeyError("vat")' in letter.failure.traceback

            # Answered when all before it is durable: until then the server shows what a kill would forget.
            await archive.configure_subscription("billing", attempts_max=3)
            server.kill()
        server.start()
        async with tidings.connect(server.url) as other:
            await other.edit_dead_letter("billing", letter.number, payload="good")
            output = await _command(server, tmp_path, "dead-letters", "billing")
            assert "1 x KeyError: 'vat' in Handled.bill() in test_failing_messages.py" in output
            output = await _command(server, tmp_path, "redrive", "billing", "--fingerprint", letter.fingerprint)
            assert output == "redriving 1 dead letter of billing\n"
        before = len(archived.calls)
        async with handling(billing), handling(archive):
            await eventually(lambda: ("good", 1, True) in handled.calls)
            await archive.publish("orders", "created", "last")
            await eventually(lambda: archived.calls[-1][0] == "last")
            assert await dead_letters(archive, "billing") == []
        assert [call[0] for call in archived.calls[before:] if call[0] in ("bad", "good")] == []


async def test_what_is_rejected_or_of_another_type_is_given_up_at_once(server: Server) -> None:
    async with tidings.connect(server.url, client_id="billing") as client:

        @client.on("orders", type=int)
        async def bill(message: tidings.Message) -> None:
            raise tidings.Reject(f"no customer {message.payload}")

        async with handling(client):
            await eventually(lambda: _connected(client, 1))
            for payload in (7, "seven", 8):
                await client.publish("orders", "created", payload)
            await eventually(lambda: _dead(client, "billing", 3))
        letters = await dead_letters(client, "billing")
        assert [(letter.payload, letter.reason, letter.attempts) for letter in letters] == [
            (7, "rejected", 1), ("seven", "rejected", 1), (8, "rejected", 1),
        ]  # fmt: skip
        groups = await client.dead_letter_groups("billing")
        assert [(group.count, group.last_number) for group in groups] == [(2, 3), (1, 2)]
        assert groups[0].text == "tidings.Reject: no customer 8 in bill() in test_failing_messages.py"
        assert groups[1].text.startswith("tidings.errors.InvalidPayload: ")
        assert await client.delete_dead_letters("billing", fingerprint=groups[0].fingerprint) == 2
        assert [letter.payload for letter in await dead_letters(client, "billing")] == ["seven"]


async def test_a_nack_waits_as_long_as_it_says_also_over_a_kill_of_the_server(server: Server) -> None:
    async with tidings.connect(server.url, client_id="reader") as client:
        async with client.subscribe("jobs") as subscription:
            await client.publish_many("jobs", "made", ["now", "later", "never"])
            messages = aiter(subscription)
            now, later, never = [await anext(messages) for _ in range(3)]
            await later.nack(delay=1.5, error="not yet", wait=True)
            await never.nack(delay=24 * 3600, wait=True)
            server.kill()
            server.start()
            async with asyncio.timeout(30):
                again = [await anext(messages) for _ in range(2)]
            assert [(message.payload, message.attempt) for message in again] == [("now", 1), ("later", 2)]
            await now.nack()  # of what came over the lost connection: it must not touch the second delivery
            await again[0].ack(wait=True)
            [info] = await client.subscriptions()
            assert (info.retrying, info.in_flight) == (1, 1)


async def test_a_handler_that_takes_longer_than_the_ack_timeout_keeps_its_message(server: Server) -> None:
    overdue = asyncio.Event()
    attempts: list[int] = []
    async with tidings.connect(server.url, client_id="slow") as client:

        @client.on("jobs", name="slow", ack_timeout=0.3)
        async def work(message: tidings.Message) -> None:
            attempts.append(message.attempt)
            await overdue.wait()

        async with (
            handling(client),
            client.subscribe("jobs", name="clock", ack_timeout=0.3, backoff_max=0.001) as clock,
        ):
            await eventually(lambda: _connected(client, 2))
            await client.publish("jobs", "made", 1)
            async with asyncio.timeout(30):
                async for message in clock:  # what nobody extends comes again meanwhile
                    if message.attempt == 4:
                        overdue.set()
                        break
            await eventually(lambda: _settled(client, "slow"))
        assert attempts == [1]


async def test_a_late_answer_is_refused_with_an_error_that_the_application_sees(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async with tidings.connect(server.url, client_id="late") as client:
        async with client.subscribe("jobs", ack_timeout=0.1, attempts_max=1, concurrency=4) as subscription:
            await client.publish_many("jobs", "made", range(4))
            messages = aiter(subscription)
            acked, nacked, extended, unheard = [await anext(messages) for _ in range(4)]
            await eventually(lambda: _dead(client, "late", 4))
            with pytest.raises(tidings.DeliveryTakenAway):
                await acked.ack(wait=True)
            with pytest.raises(tidings.DeliveryTakenAway):
                await nacked.nack(wait=True)
            with pytest.raises(tidings.DeliveryTakenAway):
                await extended.extend(wait=True)
            await unheard.nack()
            await eventually(lambda: caplog.text.count("delivery_taken_away") == 1)
        letters = await dead_letters(client, "late")
        assert {(letter.reason, letter.attempts, letter.failure) for letter in letters} == {("ack timeout", 1, None)}


async def test_a_message_that_kills_its_handler_ends_as_a_dead_letter(server: Server, tmp_path: Path) -> None:
    async with tidings.connect(server.url) as client:
        with Subscriber(tmp_path, server.url, "jobs", "worker", way="stuck") as stuck:
            stuck.read_line()
            [info] = await client.subscriptions()
            await client.configure_subscription(info.name, attempts_max=2)
            await client.publish("jobs", "made", "deadly")
            await eventually(lambda: stuck.deliveries(), what="the job is being handled")
            stuck.kill()
        with Subscriber(tmp_path, server.url, "jobs", "worker", way="stuck") as stuck:
            await eventually(lambda: len(stuck.deliveries()) == 2, what="the job is being handled again")
            stuck.kill()
        await eventually(lambda: _dead(client, info.name, 1))
        [letter] = await dead_letters(client, info.name)
        assert (letter.payload, letter.reason, letter.attempts) == ("deadly", "connection lost", 2)


async def test_the_command_line_shows_edits_and_deletes(server: Server, tmp_path: Path) -> None:
    async with tidings.connect(server.url, client_id="billing") as client:
        async with client.subscribe("orders") as subscription:
            await client.publish_many("orders", "created", [{"id": 1}, {"id": 2}])
            messages = aiter(subscription)
            for _ in range(2):
                await (await anext(messages)).reject("no such customer")
            await eventually(lambda: _dead(client, "billing", 2))
    shown = await _command(server, tmp_path, "dead-letters", "billing", "--show", "1")
    assert "no such customer" in shown
    assert '{"id":1}' in shown
    await _command(server, tmp_path, "dead-letters", "billing", "--edit", "2", "--payload", '{"id": 3}')
    listed = await _command(server, tmp_path, "dead-letters", "billing", "--list", "--json")
    assert [(line["payload"], line["edited"]) for line in map(json.loads, listed.splitlines())] == [
        ({"id": 1}, False), ({"id": 3}, True),
    ]  # fmt: skip
    await _command(server, tmp_path, "subscription", "set", "billing", "--attempts-max", "4")
    await _command(server, tmp_path, "redrive", "billing", "--sequence", "2")
    [line] = (await _command(server, tmp_path, "subscriptions", "--json")).splitlines()[:1]
    assert (json.loads(line)["attempts_max"], json.loads(line)["dead"]) == (4, 1)
    assert "deleted 1 dead letter" in await _command(server, tmp_path, "dead-letters", "billing", "--delete", "--all")


async def _command(server: Server, directory: Path, *arguments: str) -> str:
    code, output, errors = await run_command(*arguments, directory=directory, server=server.url)
    assert code == 0, (code, output, errors)
    return output


async def _connected(client: tidings.Client, count: int) -> bool:
    return len([info for info in await client.subscriptions() if info.connected]) == count


async def _dead(client: tidings.Client, name: str, count: int) -> bool:
    try:
        return len(await dead_letters(client, name)) == count
    except tidings.NotFound:
        return False


async def _settled(client: tidings.Client, name: str) -> bool:
    return any(info.lag == 0 for info in await client.subscriptions() if info.name == name)
