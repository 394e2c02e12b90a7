"""Receipts: what is told of a message and each subscription, at once or when it is settled."""

from itertools import permutations

import pytest

from tests.unit.broker.harness import START_MS, Client, Harness, assert_refused
from tidings import limits
from tidings.broker import inputs
from tidings.broker.receipts import Receipts
from tidings.calls import AwaitReceipt, DeleteMessage, ListReceipts, Pause, Purge, Redrive, Seek
from tidings.errors import InvalidOption, LimitReached, NotFound
from tidings.model import HeaderFilter, Receipt

WAIT_MS = 5_000


def attached(name: str = "billing", event: str = "#", **options: object) -> tuple[Harness, Client]:
    """Returns a harness with a publisher's message and a durable subscriber that gets it."""
    harness = Harness()
    client = harness.connect(name)
    client.subscribe("orders", event, name=name, **options)
    return harness, client


def receipt(client: Client, sequence: int = 1, name: str = "billing") -> Receipt:
    """Returns the receipt of one subscription."""
    [found] = [
        each for each in client.call(ListReceipts(queue="orders", sequence=sequence)) if each.subscription == name
    ]
    return found


def waiting(client: Client, request: int, sequence: int = 1, name: str = "billing", **options: object) -> None:
    """Asks for a receipt and does not wait for the answer."""
    call = AwaitReceipt(
        **{"queue": "orders", "sequence": sequence, "subscription": name, "wait_ms": WAIT_MS, **options}
    )
    client.harness.do(inputs.Call(client.connection, request, call))


def test_a_message_is_waiting_then_in_flight_then_acked() -> None:
    harness, client = attached()
    client.disconnect()
    publisher = harness.connect()
    publisher.publish("orders")
    assert receipt(publisher) == Receipt(subscription="billing", state="waiting", attempts=0)
    client = harness.connect("billing")
    handle = client.subscribe("orders", name="billing")
    assert receipt(publisher) == Receipt(
        subscription="billing", state="in flight", attempts=1, client_id="billing", address="10.0.0.3:5000", at=START_MS
    )
    client.ack(handle, 1)
    assert receipt(publisher) == Receipt(subscription="billing", state="acked")


def test_what_comes_before_the_last_messages_is_not_for_who_begins_with_them() -> None:
    harness = Harness()
    client = harness.connect("billing")
    client.publish("orders", "a", "a", "b")
    client.subscribe("orders", name="billing", start="last")
    assert client.call(ListReceipts(queue="orders", sequence=1)) == []
    waiting(client, 7)
    assert_refused(client, NotFound, "billing")
    assert receipt(client, 2).state == "in flight"


def test_what_waits_in_a_buffer_is_in_flight_since_no_time() -> None:
    _, client = attached()
    client.publish("orders", "a", "b")
    assert receipt(client, 1).at == START_MS
    assert (receipt(client, 2).state, receipt(client, 2).at) == ("in flight", None)


def test_a_failed_message_is_retrying_until_its_time() -> None:
    harness, client = attached(backoff_min_ms=1_000, backoff_max_ms=1_000)
    client.publish("orders")
    client.nack(1, 1, delay_ms=700)
    assert receipt(client) == Receipt(subscription="billing", state="retrying", attempts=1, at=START_MS + 700)
    harness.advance(700)
    assert (receipt(client).state, receipt(client).attempts) == ("in flight", 2)


def test_a_message_given_up_is_dead_and_once_redriven_not_known_exactly() -> None:
    _, client = attached()
    client.publish("orders", "a", "b")
    client.nack(1, 1, reject=True)
    assert receipt(client) == Receipt(
        subscription="billing", state="dead", attempts=1, at=START_MS, reason="rejected", dead_letter=1
    )
    client.ack(1, 2)
    assert receipt(client, 2) == Receipt(subscription="billing", state="acked")
    client.call(Redrive(subscription="billing"))
    assert receipt(client) == Receipt(subscription="billing", state="acked", exact=False)


def test_the_holder_in_a_shared_subscription_is_told() -> None:
    harness = Harness()
    members = [harness.connect(name) for name in ("one", "two")]
    for member in members:
        member.subscribe("orders", name="team", shared=True)
    members[0].publish("orders")
    members[0].publish("orders")
    holders = {receipt(members[0], sequence, "team").client_id for sequence in (1, 2)}
    assert holders == {"one", "two"}


def test_only_those_a_message_is_meant_for_are_listed() -> None:
    harness, client = attached()
    client.subscribe("orders", "paid", name="paid")
    client.subscribe("orders", name="berlin", headers=[HeaderFilter("city", ("Berlin",))])
    client.publish("orders", "created", headers=[{"city": "Rome"}])
    late = harness.connect("late")
    late.subscribe("orders", name="late")
    late.subscribe("orders", name="early", start="earliest")
    client.publish("orders", "paid", headers=[{"city": "Berlin"}])

    def names(sequence: int) -> list[str]:
        return [each.subscription for each in client.call(ListReceipts(queue="orders", sequence=sequence))]

    assert names(1) == ["billing", "early"]
    assert names(2) == ["berlin", "billing", "early", "late", "paid"]
    harness.flush()
    harness.restart()
    client = harness.connect("billing")
    assert names(1) == ["billing", "early"]
    assert client.call(AwaitReceipt(queue="orders", sequence=1, subscription="late")) is None
    assert_refused(client, NotFound, "message 1 of queue 'orders' is not meant for subscription 'late'")


def test_what_a_subscription_was_moved_past_is_not_called_acked_for_sure() -> None:
    _, client = attached()
    client.publish("orders", "a", "b")
    client.call(Seek(subscription="billing", to="latest"))
    assert receipt(client) == Receipt(subscription="billing", state="acked", exact=False)
    client.call(Seek(subscription="billing", to="earliest"))
    assert receipt(client).state == "in flight"


def test_what_died_before_a_move_is_not_called_acked_for_sure() -> None:
    harness, client = attached()
    client.publish("orders", "a", "b")
    client.nack(1, 1, reject=True)
    client.ack(1, 2)
    client.call(Seek(subscription="billing", to="latest"))
    assert receipt(client) == Receipt(subscription="billing", state="acked", exact=False)
    assert receipt(client, 2) == Receipt(subscription="billing", state="acked")
    client.call(Seek(subscription="billing", to="earliest"))
    cursor = harness.broker.state.subscriptions["billing"].cursors[harness.epoch("orders")]
    harness.do(inputs.Nack(client.connection, 1, [(cursor.reading, 1, 1)], reject=True))
    assert (receipt(client).state, receipt(client).dead_letter) == ("dead", 2)


def test_a_long_list_comes_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LISTING_PAGE_COUNT", 2)
    _, client = attached()
    for name in ("a", "b", "c"):
        client.subscribe("orders", name=name)
    client.publish("orders")
    pages = [client.call(ListReceipts(queue="orders", sequence=1, after=after)) for after in ("", "b", "c")]
    assert [[each.subscription for each in page] for page in pages] == [["a", "b"], ["billing", "c"], []]


@pytest.mark.parametrize(
    "call",
    [
        ListReceipts(queue="nowhere", sequence=1),
        ListReceipts(queue="orders", sequence=3),
        ListReceipts(queue="orders", sequence=0),
        ListReceipts(queue="orders", sequence=1, epoch=99),
        AwaitReceipt(queue="orders", sequence=2, count=2, subscription="billing"),
        AwaitReceipt(queue="orders", sequence=1, subscription="nobody"),
    ],
)
def test_there_is_no_receipt_for_what_is_not_there(call: ListReceipts | AwaitReceipt) -> None:
    _, client = attached()
    client.publish("orders", "a", "b")
    assert client.call(call) is None
    assert_refused(client, NotFound)


# --- waiting ---


def test_an_awaited_receipt_comes_with_the_ack_once_that_is_durable() -> None:
    harness, client = attached()
    client.publish("orders", "a", "b")
    waiting(client, 77, 2)
    client.ack(1, 1)
    harness.flush()
    assert 77 not in client.answers
    harness.store_is_held = True
    client.ack(1, 2)
    assert 77 not in client.answers
    harness.commit()
    assert client.answers[77] == Receipt(subscription="billing", state="acked")
    cursor = harness.broker.state.subscriptions["billing"].cursors[harness.epoch("orders")]
    assert cursor.awaited == 0


def test_acks_out_of_order_answer_those_they_settle() -> None:
    _, client = attached()
    client.publish("orders", *"abcd")
    for sequence in (1, 2, 3, 4):
        waiting(client, sequence, sequence)
    client.ack(1, 3)
    assert set(client.answers) == {3}
    client.ack(1, 1, 2)
    assert set(client.answers) == {1, 2, 3}


def test_a_receipt_of_many_comes_with_the_last_ack() -> None:
    _, client = attached()
    client.publish("orders", *"abc")
    waiting(client, 77, 1, count=3)
    client.ack(1, 3)
    client.ack(1, 1)
    assert 77 not in client.answers
    client.ack(1, 2)
    assert client.answers[77].state == "acked"


def test_an_awaited_message_that_dies_answers() -> None:
    _, client = attached()
    client.publish("orders")
    waiting(client, 77)
    client.nack(1, 1, reject=True)
    assert (client.answers[77].state, client.answers[77].dead_letter) == ("dead", 1)


def test_a_transaction_that_acks_answers() -> None:
    _, client = attached()
    client.publish("orders")
    waiting(client, 77)
    client.transact("bills", acks=[(1, "orders", 1, 1)])
    assert client.answers[77].state == "acked"


def test_after_its_time_a_receipt_tells_how_far_it_is() -> None:
    harness, client = attached()
    client.publish("orders")
    waiting(client, 77)
    harness.advance(WAIT_MS - 1)
    assert 77 not in client.answers
    harness.advance(1)
    assert (client.answers[77].state, client.answers[77].client_id) == ("in flight", "billing")
    client.ack(1, 1)
    assert not client.refusals


@pytest.mark.parametrize(("what", "name"), [("queue", "orders"), ("subscription", "other")])
def test_deleting_what_it_is_about_refuses_a_receipt(what: str, name: str) -> None:
    harness, client = attached()
    other = harness.connect("other")
    other.subscribe("orders", name="other")
    other.disconnect()
    client.publish("orders")
    waiting(client, 77, name="other")
    client.delete(what, name)
    assert_refused(client, NotFound, "was deleted meanwhile")


def test_who_is_gone_waits_for_nothing() -> None:
    harness, client = attached()
    client.publish("orders")
    publisher = harness.connect()
    waiting(publisher, 77)
    publisher.disconnect()
    cursor = harness.broker.state.subscriptions["billing"].cursors[harness.epoch("orders")]
    assert cursor.awaited == 0
    client.ack(1, 1)
    harness.advance(WAIT_MS)


def test_times_counts_and_numbers_have_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RECEIPTS_AWAITED_MAX", 1)
    _, client = attached()
    client.publish("orders")
    for options in ({"count": 0}, {"wait_ms": -1}, {"wait_ms": limits.RECEIPT_WAIT_MS_MAX + 1}):
        waiting(client, 1, **options)
        assert_refused(client, InvalidOption, str(limits.RECEIPT_WAIT_MS_MAX))
    waiting(client, 1)
    waiting(client, 2)
    assert_refused(client, LimitReached, "waits for 1 receipts, the limit is 1")


def test_what_is_awaited_in_vain_again_and_again_takes_no_room() -> None:
    harness, client = attached()
    client.publish("orders")
    waiting(client, 1)
    for number in range(2, 500):
        waiting(client, number, wait_ms=1)
        harness.advance(1)
    [heap] = harness.broker._receipts._of.values()
    assert len(heap) < 100
    assert 1 not in client.answers


@pytest.mark.parametrize("how", ["purged", "deleted", "failed"])
def test_an_awaited_message_that_becomes_a_gap_answers(how: str) -> None:
    harness, client = attached()
    if how != "failed":
        client.call(Pause(subscription="billing", paused=True))
    client.publish("orders")
    waiting(client, 7)
    if how == "deleted":
        client.call(DeleteMessage(queue="orders", sequence=1))
        client.call(Pause(subscription="billing", paused=False))
    else:
        client.call(Purge(queue="orders"))
    if how == "failed":
        client.nack(1, 1, reject=True)
    harness.flush()
    assert client.answers[7].state == "gap"


def test_an_ack_looks_only_at_what_it_settles_however_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    _, client = attached()
    client.publish("orders", *["a"] * 300)
    for sequence in range(1, 301):
        waiting(client, sequence, sequence)
    looks = 0
    look = Receipts._look_at

    def counted(self: Receipts, number: int) -> None:
        nonlocal looks
        looks += 1
        look(self, number)

    monkeypatch.setattr(Receipts, "_look_at", counted)
    for first in (1, 299, 150, 2):
        client.ack(1, first, first + 1)
    assert looks == 7
    assert set(client.answers) == {1, 2, 3, 150, 151, 299, 300}
    client.ack(1, 1, 300)
    assert set(client.answers) == set(range(1, 301))


def test_a_receipt_of_many_waits_for_each_of_them_in_whichever_order_they_are_acked() -> None:
    for order in permutations(range(1, 5)):
        _, client = attached()
        client.publish("orders", *"abcd")
        waiting(client, 7, 2, count=3)
        acked: set[int] = set()
        for sequence in order:
            client.ack(1, sequence)
            acked.add(sequence)
            assert (7 in client.answers) == (acked >= {2, 3, 4})
