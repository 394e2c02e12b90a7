"""`tidings subscriptions`: how far each one is, how to change its settings, and how to delete one."""

import time
from typing import Annotated, Any, Final

from cyclopts import App, Parameter

from tidings.cli.options import SERVER_DEFAULT, Json, Server, connect, run_async
from tidings.cli.output import as_entry, print_entries, print_table, printable, relative_time
from tidings.errors import InvalidOption, NotFound, SubscriptionConflict
from tidings.model import SubscriptionInfo

ATTEMPTS_HELP: Final = "After how many failed attempts a message becomes a dead letter."
ACK_TIMEOUT_HELP: Final = "Time until an unacknowledged message counts as failed."
SINGLE_HELP: Final = "Of a shared one: let one subscriber get all messages until it leaves."
EXPIRES_HELP: Final = "Absence after which the server forgets it; 0 never."

app = App(name=("subscriptions", "subscription"))


@app.default
def list_subscriptions(*, json: Json = False, server: Server = SERVER_DEFAULT) -> None:
    """List subscriptions, one line per queue each reads: its cursor, how far behind it is, and its last ack.

    A lag with `≤` is an upper bound: it counts all messages after the cursor, also those of other events.

    For example:

        tidings subscriptions
        tidings subscriptions delete billing
        tidings subscription set billing --attempts-max 5 --backoff-min 2
    """
    infos = run_async(_fetch(server))
    if json:
        print_entries(as_entry(info, times=("last_ack", "last_seen")) for info in infos)
    else:
        print_subscriptions(infos, now_ms=time.time_ns() // 1_000_000)


@app.command
def delete(
    name: Annotated[str, Parameter(help="Name of the subscription, or the id of a client that has only one.")],
    /,
    *,
    server: Server = SERVER_DEFAULT,
) -> None:
    """Delete a subscription: the server forgets its cursor, keeps nothing for it, and deletes its dead letters."""
    print(f"deleted subscription {printable(run_async(_delete(server, name)))}")


@app.command(name="set")
def set_(
    name: Annotated[str, Parameter(help="Name of the subscription, or the id of a client that has only one.")],
    /,
    *,
    attempts_max: Annotated[int | None, Parameter(metavar="N", help=ATTEMPTS_HELP)] = None,
    backoff_min: Annotated[float | None, Parameter(metavar="SECONDS", help="Wait before the second attempt.")] = None,
    backoff_max: Annotated[float | None, Parameter(metavar="SECONDS", help="Longest wait before an attempt.")] = None,
    ack_timeout: Annotated[float | None, Parameter(metavar="SECONDS", help=ACK_TIMEOUT_HELP)] = None,
    in_flight_max: Annotated[int | None, Parameter(metavar="N", help="Most messages delivered and not acked.")] = None,
    expires_after: Annotated[float | None, Parameter(metavar="SECONDS", help=EXPIRES_HELP)] = None,
    single_active: Annotated[
        bool | None, Parameter(help=SINGLE_HELP, negative="--no-single-active", show_default=False)
    ] = None,
    server: Server = SERVER_DEFAULT,
) -> None:
    """Change the settings of a subscription, connected or away. What is left out stays as it is.

    For example:

        tidings subscription set billing --attempts-max 5 --backoff-min 2 --backoff-max 600
    """
    settings = {
        "attempts_max": attempts_max,
        "backoff_min": backoff_min,
        "backoff_max": backoff_max,
        "ack_timeout": ack_timeout,
        "in_flight_max": in_flight_max,
        "expires_after": expires_after,
        "single_active": single_active,
    }
    if all(value is None for value in settings.values()):
        raise InvalidOption("nothing to change; for example --attempts-max 5")
    run_async(_set(server, name, settings))
    print(f"changed subscription {printable(name)}")


async def _fetch(server: str) -> list[SubscriptionInfo]:
    async with connect(server) as client:
        return await client.subscriptions()


async def _set(server: str, name: str, settings: dict[str, Any]) -> None:
    async with connect(server) as client:
        await client.configure_subscription(name, **settings)


async def _delete(server: str, name: str) -> str:
    async with connect(server) as client:
        resolved = resolve(await client.subscriptions(), name)
        await client.delete_subscription(resolved)
        return resolved


def resolve(infos: list[SubscriptionInfo], name: str) -> str:
    """Returns the subscription that `name` means: the one of this name, or the only one of this client.

    Raises:
        NotFound: it is neither.
        SubscriptionConflict: it is a client with several; the text lists them.
    """
    if any(info.name == name for info in infos):
        return name
    owned = sorted({info.name for info in infos if info.client_id == name})
    if not owned:
        raise NotFound(f"there is no subscription and no client {name!r}; tidings subscriptions lists them")
    if len(owned) > 1:
        raise SubscriptionConflict(f"client {name!r} has {len(owned)} subscriptions, name one: {', '.join(owned)}")
    return owned[0]


def print_subscriptions(infos: list[SubscriptionInfo], *, now_ms: int) -> None:
    """Prints subscriptions as a table."""
    columns = (
        "name",
        "client id",
        "queue",
        "event",
        "cursor",
        "lag",
        "in flight",
        "retrying",
        "dead",
        "cut",
        "connected",
        "last ack",
    )
    rows = [
        (
            info.name,
            info.client_id or "(anonymous)",
            info.queue,
            info.event + "".join(map(str, info.headers)),
            info.cursor,
            info.lag if info.lag_exact else f"≤ {info.lag:,}",
            info.in_flight,
            info.retrying,
            info.dead,
            info.cut,
            _state(info, now_ms),
            relative_time(info.last_ack, now_ms),
        )
        for info in infos
    ]
    print_table(columns, rows, empty="No subscription yet; make one: tidings subscribe QUEUE --as NAME")


def _state(info: SubscriptionInfo, now_ms: int) -> str:
    attached = f"{len(info.subscribers)} share it" if info.shared else "yes"
    if info.replays_to is not None:
        attached = f"replays up to {info.replays_to:,}"
    state = attached if info.connected else f"away, seen {relative_time(info.last_seen, now_ms)}"
    if info.paused:
        return f"paused: {info.paused}" if info.connected else f"{state}; paused: {info.paused}"
    return state
