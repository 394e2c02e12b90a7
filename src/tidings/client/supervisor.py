"""The supervisor: keeps a session connected, and feeds it with bytes, time and turns of the event loop."""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final

from tidings import limits
from tidings.client.backoff import Backoff
from tidings.client.session import Session
from tidings.client.transport import Dialer, Link
from tidings.errors import ConnectionLost, InternalError, InvalidOption, TidingsError, Unavailable

_logger: Final = logging.getLogger("tidings")
_AGENT: Final = "tidings-python"
_PRODUCER_BITS: Final = 96


class Supervisor:
    """Owns a session and its connections, of which there is one at a time.

    Args:
        dialers: ways to the server, tried in turn.
        client_id: the client's stable name, or None.
        take_over: take the name from another living process.
        reconnect: True for ever, False never, a number of attempts in a row, or for how long.
        randomness: where the producer's id and the jitter of pauses come from.
    """

    def __init__(
        self,
        dialers: Sequence[Dialer],
        *,
        client_id: str | None,
        take_over: bool,
        reconnect: bool | int | timedelta,
        randomness: random.Random,
    ) -> None:
        self.session = Session(
            client_id=client_id,
            producer=f"{randomness.getrandbits(_PRODUCER_BITS):024x}",
            take_over=take_over,
            agent=_AGENT,
            wake=self._wake,
        )
        self._dialers = list(dialers)
        self._backoff = Backoff(reconnect, addresses=len(self._dialers), randomness=randomness)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._opened: asyncio.Future[None] | None = None
        self._progress = asyncio.Event()
        self._link: Link | None = None
        self._was_open = False
        self._last_failure = ""
        self._flush_scheduled = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def started(self) -> bool:
        """Whether it was started; it may have been stopped since."""
        return self._task is not None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop it was started on, which is the one that runs.

        Raises:
            InvalidOption: it was not started, or another one runs.
        """
        if self._loop is None:
            raise InvalidOption("the client is not open; use `async with tidings.connect(...) as client`")
        self.check_loop()
        return self._loop

    def check_loop(self) -> None:
        """Refuses to be used on another event loop than the one it was started on.

        Raises:
            InvalidOption: it would be.
        """
        if self._loop is not asyncio.get_running_loop():
            raise InvalidOption(
                "the client was opened on another event loop; use it there, or open another client here (each"
                " asyncio.run has a loop of its own)"
            )

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: object) -> None:
        """Calls a function on that loop soon; from any thread, and in vain once the loop is closed."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *args)

    # --- Starting and stopping ---

    def start(self) -> "asyncio.Future[None]":
        """Begins to connect; the future is done once a connection is open, or has the error that ends all."""
        self._loop = asyncio.get_running_loop()
        self._opened = self._loop.create_future()
        # Its owner is this supervisor: `stop` ends it, and its errors arrive in `_opened` or end the session.
        self._task = self._loop.create_task(self._supervise(), name="tidings client")
        return self._opened

    async def finish(self) -> None:
        """Waits until everything is sent and what somebody waits for is confirmed; then says farewell."""
        session = self.session
        self._wake()
        while session.error is None and not session.idle:
            self._progress.clear()
            await self._progress.wait()
        session.close()
        link = self._link
        if link is not None and link.transport is not None:
            self._write()
            link.transport.close()
            await link.ended

    async def stop(self, error: TidingsError) -> None:
        """Ends session, connection and all attempts to connect; whoever still waits gets the error."""
        self.session.fail(error)
        self._cancel_timer()
        if self._link is not None and self._link.transport is not None:
            self._link.transport.abort()
        try:
            if self._task is not None:
                self._task.cancel()
                await asyncio.wait([self._task])
        finally:
            for dialer in self._dialers:
                await dialer.close()
        if self._opened is not None and self._opened.done() and not self._opened.cancelled():
            self._opened.exception()  # whoever waited has heard it

    # --- Waiting and saying why ---

    async def wait_for_room(self) -> None:
        """Waits until there is room to publish. The caller publishes at once, before the loop turns."""
        session, loop = self.session, self.loop
        waiter: asyncio.Future[None] = loop.create_future()
        session.room.wait(waiter)
        try:
            await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                session.room.taken()
            else:
                session.room.forget(waiter)
            raise
        loop.call_soon(session.room.taken)  # after the caller has published, so that nobody overtakes it

    def unreachable(self, within: str = "") -> Unavailable:
        """Returns the error of a first connection that did not come about."""
        return Unavailable(
            f"no Tidings server at {self._addresses()}{within}: {self._last_failure or 'no answer'};"
            " start one with `tidings serve`, or check the address"
        )

    def why_not_connected(self) -> str:
        """Returns what to add to the text of a time limit's error; empty while a connection is open."""
        if self.session.open:
            return ""
        return f" (not connected to {self._addresses()}: {self._last_failure or 'no answer yet'})"

    def _addresses(self) -> str:
        return ", ".join(dialer.address for dialer in self._dialers)

    # --- Connecting ---

    async def _supervise(self) -> None:
        try:
            self._end(await self._stay_connected())
        except Exception as error:  # our own bug; whoever waits hears of it, and the log says where
            _logger.exception("the client failed")
            self._end(InternalError(f"the client failed: {error!r}; please report it"))

    async def _stay_connected(self) -> TidingsError:
        """Connects, again and again; returns why it ends."""
        loop, backoff = self.loop, self._backoff
        lost_at = loop.time()
        while True:
            dialer = self._dialers[backoff.address]
            began_at = loop.time()
            self._was_open = False
            await self._connect(dialer)
            if self.session.error is not None:
                return self.session.error
            if self.session.closing:
                return ConnectionLost("the client is closed")
            if self._was_open:
                lost_at = loop.time()
                backoff.lost(lost_at - began_at)
                _logger.warning("connection to %s lost: %s", dialer.address, self._last_failure)
            else:
                backoff.failed()
            if not backoff.may_try_again(loop.time() - lost_at, first=self._opening):
                if self._opening:
                    return self.unreachable()
                return ConnectionLost(f"the connection to {self._addresses()} ended: {self._last_failure}")
            await asyncio.sleep(backoff.pause_s())

    async def _connect(self, dialer: Dialer) -> None:
        """Makes one connection and stays until it ends."""
        ended: asyncio.Future[None] = self.loop.create_future()
        try:
            async with asyncio.timeout(limits.HELLO_TIMEOUT_MS / 1000):
                await dialer.dial(lambda: Link(self, ended))
        except TimeoutError:
            self._last_failure = f"no connection within {limits.HELLO_TIMEOUT_MS} ms"
        except OSError as error:
            self._last_failure = error.strerror or str(error)
        except TidingsError as error:
            self._last_failure = error.text
            if not error.retryable:
                self.session.fail(error)
        else:
            await ended

    @property
    def _opening(self) -> bool:
        """Whether somebody still waits for the first connection."""
        return self._opened is not None and not self._opened.done()

    def _end(self, error: TidingsError) -> None:
        self.session.fail(error)
        if self._opened is not None and not self._opened.done():
            self._opened.set_exception(type(error)(error.text))
        self._progress.set()

    # --- What the link tells ---

    def link_made(self, link: Link) -> None:
        """A connection was made."""
        self._link = link
        self.session.paused = False
        self.session.connected(self._now_ms())
        self._write()
        self._set_timer()

    def link_received(self, link: Link, data: bytes) -> None:
        """Bytes came."""
        if link is not self._link:
            return
        session = self.session
        session.receive_data(data, self._now_ms())
        if session.open and not self._was_open:
            self._was_open = True
            self._set_timer()  # the Welcome says how often hearts beat
            if self._opened is not None and not self._opened.done():
                self._opened.set_result(None)
            else:
                _logger.info("connected again")
        self._after_input()

    def link_writable(self, link: Link, *, writable: bool) -> None:
        """The transport takes more, or no more."""
        if link is self._link:
            self.session.paused = not writable
            if writable:
                self._wake()

    def link_lost(self, link: Link, error: Exception | None) -> None:
        """The connection ended."""
        if link is not self._link:
            return
        self._link = None
        self._cancel_timer()
        self.session.disconnected(ConnectionLost(str(error) if error else "the server closed the connection"))
        self._last_failure = self.session.lost.text if self.session.lost else ""
        self._after_input()

    # --- Turns of the loop ---

    def _wake(self) -> None:
        if not self._flush_scheduled and self._loop is not None:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        self.session.flush()
        self._write()
        self._after_input()

    def _write(self) -> None:
        data = self.session.data_to_send(self._now_ms())
        if data and self._link is not None and self._link.transport is not None:
            self._link.transport.writelines(data)

    def _after_input(self) -> None:
        session = self.session
        for report in session.reports():
            _logger.warning("%s: %s", report.code, report.text)
        if session.connection_ended and self._link is not None and self._link.transport is not None:
            self._write()
            self._link.transport.close()
        self._progress.set()

    def _set_timer(self) -> None:
        self._cancel_timer()
        deadline_ms = self.session.next_deadline_ms()
        if deadline_ms is not None:
            self._timer = self.loop.call_at(deadline_ms / 1000, self._tick)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        self.session.tick(self._now_ms())
        self._write()
        if self.session.connection_ended and self._link is not None and self._link.transport is not None:
            self._link.transport.abort()  # a silent peer does not answer a close either
        else:
            self._set_timer()
        self._after_input()

    def _now_ms(self) -> int:
        # Rounded, so that a timer set for a deadline is not a fraction too early for it.
        return round(self.loop.time() * 1000)
