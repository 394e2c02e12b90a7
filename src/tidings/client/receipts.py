"""Receipts: what became of a message at each subscription."""

from tidings import calls, limits, model
from tidings.client.requests import Requests, check_timeout
from tidings.errors import GivenUp, TimedOut
from tidings.model import Receipt

_EARLIER_S = 0.05  # the server gives up this much before the client, so that it can say how far the message is


class Receipts(Requests):
    """The verbs of a client for receipts."""

    async def receipts(
        self, queue: str, sequence: int, *, epoch: int = 0, timeout: float | None = 30.0
    ) -> list[Receipt]:
        """Returns how far each subscription is with a message: those that it is meant for, by name.

        Args:
            queue: the queue's name.
            sequence: the message's sequence, from its confirm or a delivery.
            epoch: the queue's epoch, from the confirm, to ask for no other queue of the name; 0 is the present one.
            timeout: time limit in seconds for each page of them.

        Raises:
            NotFound: there is no such message.
        """
        found: list[Receipt] = []
        after = ""
        while True:
            call = calls.ListReceipts(queue=queue, sequence=sequence, epoch=epoch, after=after)
            page: list[Receipt] = await self._call(call, timeout)
            found += page
            if not page:
                return found
            after = page[-1].subscription

    async def _await_receipt(self, confirm: model.Confirm, subscription: str, timeout: float | None) -> Receipt:
        loop = self._supervisor.loop
        check_timeout(timeout)
        end = None if timeout is None else loop.time() + timeout
        wait_max_s = limits.RECEIPT_WAIT_MS_MAX / 1000
        while True:
            left_s = wait_max_s if end is None else max(0.0, end - loop.time())
            wait_s = min(wait_max_s, max(left_s * 0.9, left_s - _EARLIER_S))
            call = calls.AwaitReceipt(
                queue=confirm.queue,
                sequence=confirm.sequence,
                epoch=confirm.epoch,
                count=confirm.count,
                subscription=subscription,
                wait_ms=int(wait_s * 1000),
            )
            receipt: Receipt = await self._call(call, None if end is None else left_s)
            if receipt.state == "acked":
                return receipt
            if receipt.state in ("dead", "gap"):
                raise GivenUp(f"{_message(confirm)} {_ending(receipt)}")
            if timeout is not None and left_s <= wait_max_s:
                raise TimedOut(
                    f"{_message(confirm)} is not acked by subscription {receipt.subscription!r} within {timeout:g} s:"
                    f" it is {receipt.state}{_whereabouts(receipt)}"
                )


def _message(confirm: model.Confirm) -> str:
    if confirm.count == 1:
        return f"message {confirm.sequence} of queue {confirm.queue!r}"
    last = confirm.sequence + confirm.count - 1
    return f"one of the messages {confirm.sequence} to {last} of queue {confirm.queue!r}"


def _ending(receipt: Receipt) -> str:
    if receipt.state == "gap":
        return f"will not come to subscription {receipt.subscription!r}: {receipt.reason}"
    return (
        f"was given up by subscription {receipt.subscription!r} after {receipt.attempts} attempts ({receipt.reason});"
        f" it is dead letter {receipt.dead_letter} there: correct what failed and redrive it"
    )


def _whereabouts(receipt: Receipt) -> str:
    if receipt.state == "in flight":
        who = receipt.client_id or receipt.address
        return f" at {who}, attempt {receipt.attempts}" if who else ""
    return f" after {receipt.attempts} attempts" if receipt.attempts else ""
