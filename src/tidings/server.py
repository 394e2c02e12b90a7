"""The server: a store, a node and its gateways, assembled; and the process around them."""

import asyncio
import gc
import logging
import secrets
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from tidings.config import Address, Network, ServerConfig
from tidings.errors import InvalidOption, TidingsError
from tidings.gateways.native import NativeGateway
from tidings.node import Clock, Node, SystemClock
from tidings.store.memory import MemoryStore
from tidings.store.port import Store
from tidings.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from tidings.gateways.http import HttpGateway
    from tidings.gateways.socketio import SocketIoGateway

_SWITCH_INTERVAL_S = 20e-6  # the store's threads get the interpreter at once, not after the default 5 ms
_GARBAGE_THRESHOLD = 50_000  # a batch decodes to thousands of tuples, none of them garbage in a cycle


def make_store(path: str | None) -> Store:
    """Returns the store for a data file, or one in memory for None."""
    return MemoryStore() if path is None else SqliteStore(path)


class Server:
    """A node and the doors to it.

    Args:
        store: what must survive; `run` opens and closes it.
        clock: the time.
        fresh_token: makes session tokens.
        hosts: names, beside addresses and localhost, under which HTTP clients may reach it.
        origins: origins whose web pages may use it.
        webhook_networks: addresses that webhooks may reach, beside those of the internet.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock | None = None,
        fresh_token: Callable[[], str] = lambda: secrets.token_urlsafe(18),
        *,
        hosts: Sequence[str] = (),
        origins: Sequence[str] = (),
        webhook_networks: Sequence[Network] = (),
    ) -> None:
        self.node = Node(store, clock or SystemClock(), fresh_token)
        self.native = NativeGateway(self.node)
        self._http: HttpGateway | None = None
        self._socketio: SocketIoGateway | None = None
        self._hosts = hosts
        self._origins = origins
        self._webhook_networks = webhook_networks

    async def run(
        self, addresses: Sequence[Address] = (), ready: Callable[[list[str]], None] = lambda urls: None
    ) -> None:
        """Serves until `drain` is done or the task is cancelled.

        Args:
            addresses: where to listen; none for a server that is reached in-process only.
            ready: called once, with the URLs that accept connections.

        Raises:
            StoreUnusable: the store cannot be opened as it is.
            InvalidOption: an address cannot be listened on.
        """
        async with asyncio.TaskGroup() as tasks, self.native, AsyncExitStack() as doors:
            running = tasks.create_task(self.node.run())
            waiting = tasks.create_task(self.node.ready.wait())
            await asyncio.wait((running, waiting), return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if not running.done():
                try:
                    urls = [await self._listen(address, doors) for address in addresses]
                except InvalidOption:
                    await self.node.drain()
                    raise
                ready(urls)
                posting = tasks.create_task(self._post_webhooks()) if addresses else None
                await asyncio.wait((running,))
                if posting:
                    posting.cancel()

    async def _post_webhooks(self) -> None:
        try:
            from tidings.gateways.webhooks import WebhookGateway
        except ImportError:
            return  # without the extra there is no door over which one could be made
        await WebhookGateway(self.node, self._webhook_networks).run()

    async def drain(self) -> None:
        """Stops accepting, finishes what is in flight to disk, tells clients to connect again, ends `run`."""
        self.native.stop_accepting()
        if self._http:
            self._http.stop_accepting()
        if self._socketio:
            self._socketio.stop_accepting()
        await self.node.drain()

    async def _listen(self, address: Address, doors: AsyncExitStack) -> str:
        try:
            if address.scheme == "http":
                if self._http is None:
                    self._http = await self._open_http(doors)
                return await self._http.listen(address.host, address.port)
            return await self.native.listen(address.host, address.port)
        except OSError as error:
            raise InvalidOption(
                f"--listen {address.url}: {error.strerror or error}; choose another address of this machine or another"
                " port (0 takes any free one), or stop who has it"
            ) from None

    async def _open_http(self, doors: AsyncExitStack) -> "HttpGateway":
        # Imported only where it is used: it takes a third of a second, and a server without HTTP does not need it.
        try:
            from tidings.gateways.http import HttpGateway
            from tidings.gateways.socketio import SocketIoGateway
        except ImportError as error:
            raise InvalidOption(
                f"HTTP needs packages that are not installed ({error}): pip install 'tidings[server]',"
                " or leave it out with --no-http"
            ) from None
        self._socketio = await doors.enter_async_context(SocketIoGateway(self.node))
        mounts: dict[str, Any] = {"/socket.io": self._socketio}
        return await doors.enter_async_context(
            HttpGateway(self.node, mounts=mounts, hosts=self._hosts, origins=self._origins)
        )


def main(config: ServerConfig) -> int:
    """Runs a server in the foreground until SIGTERM or SIGINT; returns the exit code of the process.

    Raises:
        TidingsError: it cannot start; nothing was changed.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    gc.set_threshold(_GARBAGE_THRESHOLD, 20, 20)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_main(config))
    except* TidingsError as group:
        raise _first(group) from None
    return 0


async def _main(config: ServerConfig) -> None:
    server = Server(
        make_store(config.store_path),
        hosts=config.allow_hosts,
        origins=config.allow_origins,
        webhook_networks=config.webhook_networks,
    )
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, stop.set)
        except NotImplementedError:  # Windows: KeyboardInterrupt ends the runner, and the store is crash-safe
            break
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(
            server.run(config.addresses, lambda urls: print(_ready_line(urls, config), flush=True))
        )
        stopping = tasks.create_task(stop.wait())
        await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not running.done():
            await server.drain()


def _ready_line(urls: list[str], config: ServerConfig) -> str:
    return f"ready {' '.join(urls)} store {config.store}"


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # not on Windows, and not without the extra: asyncio's own loop does, slower
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def _first(group: BaseExceptionGroup[TidingsError]) -> TidingsError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, TidingsError)
    return error
