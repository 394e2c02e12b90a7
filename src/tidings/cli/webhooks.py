"""`tidings webhooks`: what is posted where, and how to make, change and delete webhooks."""

from typing import Annotated, Final, Literal

from cyclopts import App, Parameter

from tidings import limits
from tidings.cli.options import SERVER_DEFAULT, Json, Server, connect, run_async
from tidings.cli.output import as_entry, print_entries, print_json, print_table, printable
from tidings.cli.subscribe import EVENT_HELP, QUEUE_HELP
from tidings.model import WebhookInfo

NAME_HELP: Final = "Name of the webhook, and of its durable subscription."
URL_HELP: Final = "Where messages are posted to. Private addresses must be allowed: `tidings serve --allow-webhook`."
SECRET_HELP: Final = "What signs: `whsec_` and 24 to 64 bytes in Base64. Without it a new webhook gets one, shown once."
CLOUDEVENTS_HELP: Final = "Post CloudEvents: `structured` or `binary` mode. Without it JSON, as over HTTP."

app = App(name=("webhooks", "webhook"))


@app.default
def list_webhooks(*, json: Json = False, server: Server = SERVER_DEFAULT) -> None:
    """List webhooks: what each posts, and where to. How far it is behind is in `tidings subscriptions`.

    For example:

        tidings webhooks
        tidings webhook set shop https://shop.example/hooks orders created
        tidings webhook delete shop
    """
    infos = run_async(_fetch(server))
    if json:
        print_entries(as_entry(info, times=("created",)) for info in infos)
        return
    rows = [
        (info.name, info.url, f"{info.queue}/{info.event}", info.concurrency, info.disabled or "no") for info in infos
    ]
    print_table(
        ("name", "url", "reads", "at once", "disabled"),
        rows,
        empty="No webhook yet; make one: tidings webhook set NAME URL QUEUE",
    )


@app.command(name="set", usage="Usage: tidings webhook set NAME URL QUEUE [EVENT] [OPTIONS]")
def set_(
    name: Annotated[str, Parameter(help=NAME_HELP)],
    url: Annotated[str, Parameter(help=URL_HELP)],
    queue: Annotated[str, Parameter(help=QUEUE_HELP)],
    event: Annotated[str | None, Parameter(help=EVENT_HELP)] = None,
    /,
    *,
    from_: Annotated[
        Literal["latest", "earliest"], Parameter(name="--from", help="Where a new one begins.")
    ] = "latest",
    secret: Annotated[str | None, Parameter(metavar="SECRET", help=SECRET_HELP)] = None,
    concurrency: Annotated[
        int, Parameter(metavar="N", help="Most requests at once; 1 keeps the order of messages.")
    ] = limits.WEBHOOK_CONCURRENCY,
    cloudevents: Annotated[Literal["structured", "binary"] | None, Parameter(help=CLOUDEVENTS_HELP)] = None,
    json: Json = False,
    server: Server = SERVER_DEFAULT,
) -> None:
    """Make a webhook, or change where and how it posts. One that was disabled is at work again.

    For example:

        tidings webhook set shop https://shop.example/hooks orders created
        tidings webhook set audit https://audit.example/in '#' --from earliest --concurrency 1
    """
    made = run_async(_put(server, name, url, queue, event, from_, secret, concurrency, cloudevents))
    if json:
        print_json({"name": name, "secret": made})
        return
    print(f"webhook {printable(name)} posts to {printable(url)}")
    if made is not None:
        print(f"secret {made}")


@app.command
def delete(name: Annotated[str, Parameter(help=NAME_HELP)], /, *, server: Server = SERVER_DEFAULT) -> None:
    """Delete a webhook. Its subscription stays, with what was not delivered; `tidings subscriptions delete` ends it."""
    run_async(_delete(server, name))
    print(f"deleted webhook {printable(name)}")


async def _fetch(server: str) -> list[WebhookInfo]:
    async with connect(server) as client:
        return await client.webhooks()


async def _put(
    server: str,
    name: str,
    url: str,
    queue: str,
    event: str | None,
    start: Literal["latest", "earliest"],
    secret: str | None,
    concurrency: int,
    cloudevents: Literal["structured", "binary"] | None,
) -> str | None:
    async with connect(server) as client:
        return await client.put_webhook(
            name, url, queue, event, start=start, secret=secret, concurrency=concurrency, cloudevents=cloudevents
        )


async def _delete(server: str, name: str) -> None:
    async with connect(server) as client:
        await client.delete_webhook(name)
