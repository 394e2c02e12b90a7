"""The gateway contract catches planted bugs: each broken door fails the tests of the clause that it breaks."""

import asyncio
from collections import deque

import pytest

from tests.contracts.doors import ConversationClient
from tidings.errors import ConnectionLost, InvalidInput, InvalidOption, TidingsError
from tidings.testing.gateway_contract import Bench, GatewayClient, GatewayContract, Missed, Received


class ConfirmsBeforeItIsStored(ConversationClient):
    async def publish(self, queue: str, event: str, payload: object) -> int:
        try:
            return await super().publish(queue, event, payload)
        except TidingsError as error:
            if isinstance(error, InvalidInput):
                raise
            return 1


class ConfirmsTheWrongPlace(ConversationClient):
    async def publish(self, queue: str, event: str, payload: object) -> int:
        return await super().publish(queue, event, payload) - 1


class AcksWhatItHandsOver(ConversationClient):
    async def receive(self) -> Received | Missed:
        received = await super().receive()
        if isinstance(received, Received):
            await super().ack(received)
        return received


class LosesEachThirdMessage(ConversationClient):
    count = 0

    async def receive(self) -> Received | Missed:
        received = await super().receive()
        type(self).count += 1
        return received if type(self).count % 3 else await super().receive()


class ForgetsAcks(ConversationClient):
    async def ack(self, received: Received) -> None:
        pass


class AcksAllUpToAMessage(ConversationClient):
    async def ack(self, received: Received) -> None:
        assert self.attachment is not None
        epoch, _, last = received.handle  # type: ignore[misc]
        await self.attachment.ack([(epoch, 1, last)])


class MarksNothing(ConversationClient):
    async def receive(self) -> Received | Missed:
        received = await super().receive()
        return received._replace(attempt=1) if isinstance(received, Received) else received


class HandsOverTheLatestFirst(ConversationClient):
    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.kept: deque[Received | Missed] = deque()

    async def receive(self) -> Received | Missed:
        if not self.kept:
            self.kept += [await super().receive(), await super().receive()]
        return self.kept.pop()


class SwallowsGaps(ConversationClient):
    async def receive(self) -> Received | Missed:
        while isinstance(received := await super().receive(), Missed):
            pass
        return received


class TellsGapsLate(ConversationClient):
    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.gaps: list[Missed] = []

    async def receive(self) -> Received | Missed:
        if self.gaps:
            return self.gaps.pop()
        while isinstance(received := await super().receive(), Missed):
            self.gaps.append(received)
        return received


class TakesMoreThanItsWindow(ConversationClient):
    async def subscribe(self, queue: str, event: str, *, name: str, start: str, in_flight_max: int) -> None:
        await super().subscribe(queue, event, name=name, start=start, in_flight_max=0)


class DropsWhatDoesNotFit(ConversationClient):
    """Keeps the latest 16 for a client that takes nothing."""

    async def subscribe(self, queue: str, event: str, *, name: str, start: str, in_flight_max: int) -> None:
        await super().subscribe(queue, event, name=name, start=start, in_flight_max=in_flight_max)
        self.kept: deque[Received | Missed] = deque(maxlen=16)
        self.arrived = asyncio.Event()
        self.taking = asyncio.ensure_future(self._take())

    async def _take(self) -> None:
        try:
            while True:
                self.kept.append(await super().receive())
                self.arrived.set()
        except ConnectionLost:
            pass  # the test is over

    async def receive(self) -> Received | Missed:
        while not self.kept:
            self.arrived.clear()
            await self.arrived.wait()
        return self.kept.popleft()


class TellsNoCodes(ConversationClient):
    async def publish(self, queue: str, event: str, payload: object) -> int:
        try:
            return await super().publish(queue, event, payload)
        except InvalidInput:
            raise TidingsError("something went wrong") from None


class HangsUpOnErrors(ConversationClient):
    async def subscribe(self, queue: str, event: str, *, name: str, start: str, in_flight_max: int) -> None:
        try:
            await super().subscribe(queue, event, name=name, start=start, in_flight_max=in_flight_max)
        except TidingsError:
            self.conversation.close()
            raise


class KeepsCursorsOfItsOwn(ConversationClient):
    async def subscribe(self, queue: str, event: str, *, name: str, start: str, in_flight_max: int) -> None:
        if event == "a..b" or " " in name:
            raise InvalidOption("no")
        await super().subscribe(queue, event, name=f"own.{name}", start=start, in_flight_max=in_flight_max)


_C = GatewayContract
BUGS = [
    (ConfirmsBeforeItIsStored, _C.test_a_publish_that_is_not_stored_is_refused_and_never_comes),
    (ConfirmsTheWrongPlace, _C.test_a_publish_is_confirmed_with_its_place),
    (AcksWhatItHandsOver, _C.test_what_was_not_acked_comes_again_after_a_lost_connection),
    (LosesEachThirdMessage, _C.test_what_was_published_while_it_was_away_comes),
    (ForgetsAcks, _C.test_what_was_acked_is_gone),
    (AcksAllUpToAMessage, _C.test_what_was_acked_is_gone),
    (MarksNothing, _C.test_what_comes_again_says_so),
    (HandsOverTheLatestFirst, _C.test_messages_come_in_the_order_in_which_they_were_published),
    (SwallowsGaps, _C.test_what_was_cut_from_the_backlog_is_told_in_its_place),
    (TellsGapsLate, _C.test_what_was_cut_from_the_backlog_is_told_in_its_place),
    (TakesMoreThanItsWindow, _C.test_what_waits_for_its_ack_is_bounded_by_the_window),
    (DropsWhatDoesNotFit, _C.test_a_client_that_takes_nothing_holds_back_only_itself),
    (TellsNoCodes, _C.test_what_is_refused_has_its_code_and_the_connection_goes_on),
    (HangsUpOnErrors, _C.test_what_is_refused_has_its_code_and_the_connection_goes_on),
    (KeepsCursorsOfItsOwn, _C.test_another_door_continues_what_this_one_began),
    (KeepsCursorsOfItsOwn, _C.test_this_door_continues_what_another_one_began),
]


@pytest.mark.parametrize(("door", "clause"), BUGS)
async def test_a_door_with_a_bug_fails_its_clause(door: type[ConversationClient], clause: object) -> None:
    class Broken(GatewayContract):
        deadline_s = 2.0

        async def connect(self, bench: Bench) -> GatewayClient:
            return await door.connect(bench.server.node)

    failed = False
    try:
        await clause(Broken())  # type: ignore[operator]
    except* (AssertionError, TimeoutError, TidingsError, ValueError):
        failed = True
    assert failed, f"{door.__name__} kept {clause}"


def test_each_clause_has_a_bug() -> None:
    clauses = {name for name in dir(GatewayContract) if name.startswith("test_")}
    assert {clause.__name__ for _, clause in BUGS} == clauses
