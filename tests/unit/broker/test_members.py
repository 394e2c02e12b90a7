"""Members: several subscribers of one subscription, and what happens to what is in flight to each."""

from itertools import product
from typing import Any

import pytest

from tests.unit.broker.harness import Client, Harness, assert_refused
from tidings import limits
from tidings.broker.inputs import Ack, Resume, SendBuffer
from tidings.calls import ConfigureSubscription
from tidings.errors import (
    DeliveryTakenAway,
    InvalidOption,
    LimitReached,
    SubscriptionConflict,
    SubscriptionInUse,
)


def shared(count: int, **options: Any) -> tuple[Harness, list[Client]]:
    """Returns a harness, and members of the subscription "team" to the queue "work"."""
    harness = Harness()
    return harness, [join(harness, f"member-{number}", **options) for number in range(1, count + 1)]


def join(harness: Harness, client_id: str | None = None, **options: Any) -> Client:
    client = harness.connect(client_id)
    client.subscribe("work", name="team", shared=True, **options)
    assert client.refusals == []
    return client


def sequences(client: Client, handle: int = 1) -> list[int]:
    """Returns what was delivered since this was last called."""
    return [message.sequence for message in client.take(handle)]


def ack(client: Client, first: int, last: int | None = None, **options: Any) -> None:
    client.ack(1, first, last, queue="work", **options)


# --- each message to one ---


def test_each_message_goes_to_one_member() -> None:
    _, (one, two, three) = shared(3)
    one.publish("work", *"abcdef")
    assert [sequences(member) for member in (one, two, three)] == [[1, 2], [3, 4], [5, 6]]


def test_single_messages_go_to_idle_members_in_turn() -> None:
    _, members = shared(3)
    got = []
    for sequence in range(1, 7):
        members[0].publish("work")
        [member] = [member for member in members if member.messages]
        assert sequences(member) == [sequence]
        ack(member, sequence)
        got.append(members.index(member))
    assert got == [0, 1, 2, 0, 1, 2]


def test_who_is_fast_gets_more() -> None:
    _, (fast, slow) = shared(2)
    for _ in range(10):
        fast.publish("work", *"ab")
        for sequence in sequences(fast):
            ack(fast, sequence)
    assert len(sequences(slow)) < 8


def test_a_full_window_leaves_the_rest_to_the_others() -> None:
    harness, (one, two) = shared(2, in_flight_max=2)
    one.publish("work", *"abcdefg")
    assert (sequences(one), sequences(two)) == ([1, 2], [3, 4])
    ack(two, 3, 4)
    assert (sequences(one), sequences(two)) == ([], [5, 6])
    assert one.subscriptions()["team"].lag == 7
    harness.flush()


def test_who_reads_nothing_gets_nothing() -> None:
    harness, (one, two) = shared(2)
    harness.do(_send_buffer(one, full=True))
    one.publish("work", *"abc")
    assert (sequences(one), sequences(two)) == ([], [1, 2, 3])
    harness.do(_send_buffer(one, full=False))
    one.publish("work", *"abc")
    assert sequences(one) == [4, 5, 6]


def test_members_with_other_filters_events_get_only_what_is_wanted() -> None:
    harness = Harness()
    members = [harness.connect() for _ in range(2)]
    for member in members:
        member.subscribe("work", "a", name="team", shared=True)
    members[0].publish("work", *"aabbaa")
    assert [sequences(member) for member in members] == [[1, 2], [5, 6]]


def test_one_client_may_be_two_members() -> None:
    harness = Harness()
    client = join(harness)
    client.subscribe("work", name="team", shared=True)
    client.publish("work", *"ab")
    assert (sequences(client), sequences(client, 2)) == ([1], [2])


# --- coming and going ---


@pytest.mark.parametrize("farewell", [False, True])
def test_what_is_in_flight_to_a_member_that_leaves_goes_to_the_others_at_once(farewell: bool) -> None:
    _, (one, two) = shared(2)
    one.publish("work", *"abcd")
    one.take(), two.take()
    one.disconnect(farewell=farewell)
    # Only what it could have been handling counts an attempt.
    assert [(m.sequence, m.attempt, m.redelivered) for m in two.take()] == [(1, 1 + (not farewell), True), (2, 1, True)]
    ack(two, 1, 4)
    assert two.subscriptions()["team"].lag == 0


def test_unsubscribing_gives_messages_to_the_others_too() -> None:
    _, (one, two) = shared(2)
    one.publish("work", *"ab")
    two.take()
    one.unsubscribe(1)
    assert sequences(two) == [1]


def test_takeover_gives_messages_to_the_others_too() -> None:
    harness, (one, two) = shared(2)
    one.publish("work", *"ab")
    two.take()
    harness.connect("member-1", take_over=True)
    assert sequences(two) == [1]


def test_after_the_last_member_the_subscription_gathers_messages_for_the_next() -> None:
    harness, (one,) = shared(1)
    one.publish("work")
    one.disconnect()
    publisher = harness.connect()
    publisher.publish("work")
    assert publisher.subscriptions()["team"].connected is False
    assert sequences(join(harness)) == [1, 2]


def test_a_poisonous_message_wears_out_though_each_time_another_member_dies() -> None:
    harness, _ = shared(1, attempts_max=3)
    harness.connect().publish("work")
    for _ in range(3):
        join(harness)
        next(client for client in list(harness.clients.values()) if client.take()).disconnect()
    watcher = harness.connect()
    assert watcher.subscriptions()["team"].dead == 1
    join(harness)
    assert not any(client.messages for client in harness.clients.values())


def test_what_was_in_flight_before_a_restart_is_shared_again() -> None:
    harness, (one, two) = shared(2)
    one.publish("work", *"abcd")
    ack(two, 3)
    harness.flush()
    harness.restart()
    again = [join(harness), join(harness)]
    # The first one that comes gets all: nobody else is there yet.
    assert [sequences(member) for member in again] == [[1, 2, 4], []]
    assert again[0].subscriptions()["team"].shared


def test_a_member_that_comes_later_gets_its_share() -> None:
    harness, (one,) = shared(1)
    one.publish("work", *"ab")
    two = join(harness)
    one.publish("work", *"cd")
    assert (sequences(one), sequences(two)) == ([1, 2], [3, 4])


# --- acks ---


def test_an_ack_of_what_another_member_holds_does_not_count() -> None:
    _, (one, two) = shared(2)
    one.publish("work", *"abcd")
    ack(one, 2, 4, request=7)
    assert_refused(one, DeliveryTakenAway, "2 to 4", "'team'", "another")
    assert one.subscriptions()["team"].in_flight == 3
    ack(one, 1)
    ack(two, 3, 4)
    assert one.subscriptions()["team"].lag == 0


def test_a_late_ack_does_not_count_once_another_member_has_it() -> None:
    harness, (one, two) = shared(2, ack_timeout_ms=1000)
    one.publish("work")
    one.take()
    harness.advance(1000)
    assert sequences(two) == [1]
    ack(one, 1)
    assert_refused(one, DeliveryTakenAway, "1 to 1")
    assert one.subscriptions()["team"].in_flight == 1
    ack(two, 1)
    assert one.subscriptions()["team"].lag == 0


def test_a_late_ack_counts_while_nobody_has_it() -> None:
    harness, (one, _) = shared(2, ack_timeout_ms=1000, backoff_min_ms=60_000, backoff_max_ms=60_000)
    one.publish("work")
    harness.advance(1000)
    ack(one, 1)
    assert one.refusals == []
    assert one.subscriptions()["team"].lag == 0


def test_who_rejects_what_is_acked_meanwhile_by_who_had_it_before_is_told() -> None:
    harness, (one, two) = shared(2, ack_timeout_ms=1000)
    one.publish("work")
    one.take()
    harness.advance(1000)
    assert sequences(two) == [1]
    harness.reads_are_held = True
    two.nack(1, 1, queue="work", reject=True, request=7)
    ack(one, 1)
    harness.reads_are_held = False
    harness.answer_reads()
    harness.flush()
    assert 7 not in two.done
    assert_refused(two, DeliveryTakenAway, "nack of 1 to 1", "'team'", "it was settled")
    assert one.refusals == []
    info = one.subscriptions()["team"]
    assert (info.lag, info.dead) == (0, 0)


def test_a_cumulative_ack_means_what_its_member_was_given() -> None:
    _, (one, two) = shared(2)
    one.publish("work", *"abcd")
    ack(two, 1, 4)
    assert two.refusals == []
    info = two.subscriptions()["team"]
    assert (info.cursor, info.in_flight) == (0, 2)
    assert {each.client_id: each.in_flight for each in info.subscribers} == {"member-1": 2, "member-2": 0}


@pytest.mark.parametrize("what", ["nack", "extend"])
def test_nobody_gives_back_or_extends_what_another_member_holds(what: str) -> None:
    _, (one, two) = shared(2)
    one.publish("work", *"ab")
    getattr(two, what)(1, 1, queue="work")
    assert_refused(two, DeliveryTakenAway)
    assert one.subscriptions()["team"].in_flight == 2


def test_acks_told_again_on_a_new_connection_leave_others_what_they_hold() -> None:
    harness, (one, two) = shared(2)
    one.publish("work", *"ab")
    token = one.token
    one.disconnect()
    assert sequences(two) == [2, 1]
    again = harness.connect("member-1", token=token)
    again.subscribe("work", name="team", shared=True, resume=[Resume(harness.epoch("work"), 2, [(1, 2)])])
    assert again.subscriptions()["team"].in_flight == 2
    ack(two, 1, 2)
    assert again.subscriptions()["team"].lag == 0


def test_a_nacked_message_goes_to_whoever_has_room() -> None:
    harness, (one, two) = shared(2, in_flight_max=1)
    one.publish("work", *"ab")
    one.nack(1, 1, queue="work", delay_ms=10)
    ack(two, 2)
    harness.advance(10)
    assert [sequences(one), sequences(two)] in ([[1, 1], [2]], [[1], [2, 1]])


def test_a_transaction_acks_only_what_its_member_holds() -> None:
    _, (one, two) = shared(2)
    one.publish("work", *"ab")
    two.transact("done", acks=[(1, "work", 1, 1)])
    assert_refused(two, DeliveryTakenAway)
    two.transact("done", acks=[(1, "work", 2, 2)])
    assert two.refusals == []
    assert one.subscriptions()["team"].in_flight == 1


# --- a single active one ---


def test_a_single_active_member_gets_all_until_it_leaves() -> None:
    _, (one, two, three) = shared(3, single_active=True)
    one.publish("work", *"abc")
    assert [sequences(member) for member in (one, two, three)] == [[1, 2, 3], [], []]
    ack(one, 1)
    one.disconnect()
    assert (sequences(two), sequences(three)) == ([2, 3], [])
    two.publish("work")
    assert (sequences(two), sequences(three)) == ([4], [])


def test_who_asks_while_a_subscription_is_stored_is_not_passed_by_who_asks_later() -> None:
    harness = Harness()
    harness.connect().publish("work")
    harness.store_is_held = True
    one, two = (join(harness, client_id, single_active=True, start="earliest") for client_id in ("one", "two"))
    harness.commit()
    assert sequences(one) == [1]
    three = join(harness, "three", single_active=True)
    one.unsubscribe(1)
    assert (sequences(two), sequences(three)) == ([1], [])


def test_a_single_active_member_that_is_slow_is_waited_for() -> None:
    harness, (one, two) = shared(2, single_active=True)
    harness.do(_send_buffer(one, full=True))
    one.publish("work", *"abc")
    assert (sequences(one), sequences(two)) == ([], [])
    harness.do(_send_buffer(one, full=False))
    assert (sequences(one), sequences(two)) == ([1, 2, 3], [])


def test_single_active_can_be_changed_while_it_runs_and_survives_a_restart() -> None:
    harness, (one, two) = shared(2)
    one.call(ConfigureSubscription(name="team", single_active=True))
    harness.flush()
    harness.restart()
    one, two = join(harness), join(harness)
    one.publish("work", *"ab")
    assert (sequences(one), sequences(two)) == ([1, 2], [])
    one.call(ConfigureSubscription(name="team", single_active=False))
    one.publish("work", *"ab")
    assert (sequences(one), sequences(two)) == ([], [3, 4])


# --- what is refused, and what is told ---


def test_the_name_cannot_be_had_shared_and_not_shared() -> None:
    harness, _ = shared(1)
    client = harness.connect("other")
    client.subscribe("work", name="team")
    assert_refused(client, SubscriptionConflict, "'team' is shared", "not shared", "shared=")
    client.subscribe("work", name="mine")
    client.subscribe("work", name="mine", shared=True)
    assert_refused(client, SubscriptionConflict, "'mine' is not shared")


def test_the_name_cannot_be_had_with_another_filter() -> None:
    harness, _ = shared(1)
    client = harness.connect("other")
    client.subscribe("play", name="team", shared=True)
    assert_refused(client, SubscriptionConflict, "'team'", "work/#", "play/#")


@pytest.mark.parametrize("options", [{"shared": True}, {"single_active": True, "name": "team"}])
def test_sharing_needs_a_name_and_single_active_needs_sharing(options: dict[str, Any]) -> None:
    client = Harness().connect("other")
    client.subscribe("work", **options)
    assert_refused(client, InvalidOption, "shared")


def test_single_active_is_refused_for_what_is_not_shared() -> None:
    client = Harness().connect("other")
    client.subscribe("work", name="mine")
    client.call(ConfigureSubscription(name="mine", single_active=True))
    assert_refused(client, InvalidOption, "'mine' is not shared")


def test_the_number_of_members_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MEMBERS_MAX", 2)
    harness, _ = shared(2)
    client = harness.connect()
    client.subscribe("work", name="team", shared=True)
    assert_refused(client, LimitReached, "2 subscribers")


def test_a_shared_subscription_is_not_deleted_under_its_members() -> None:
    _, (one, two) = shared(2)
    one.delete("subscription", "team")
    assert_refused(one, SubscriptionInUse, "1 more")
    one.unsubscribe(1)
    two.unsubscribe(1)
    one.delete("subscription", "team")
    assert one.refusals == []
    assert one.subscriptions() == {}


def test_members_see_each_other_in_listings() -> None:
    _, (one, two) = shared(2)
    one.publish("work", *"abc")
    info = one.subscriptions()["team"]
    assert (info.shared, info.client_id, info.connected, info.in_flight) == (True, None, True, 3)
    assert [(each.client_id, each.address, each.in_flight) for each in info.subscribers] == [
        ("member-1", "10.0.0.1:5000", 2),
        ("member-2", "10.0.0.2:5000", 1),
    ]
    assert two.clients()["member-2"].subscriptions == ["team"]


def test_a_gap_is_told_to_every_member_until_one_acks_it() -> None:
    harness, (one, two) = shared(2)
    one.publish("work", *"ab")
    epoch = harness.epoch("work")
    one.delete("queue", "work")
    assert [(gap.first_sequence, gap.last_sequence) for gap in one.gaps + two.gaps] == [(1, 2), (1, 2)]
    harness.do(Ack(one.connection, 1, [(epoch, 1, 2)]))
    assert join(harness).gaps == []


def test_a_first_start_at_a_time_places_the_subscription_for_all_who_wait() -> None:
    harness = Harness()
    harness.connect().publish("work", *"abcd")
    harness.reads_are_held = True
    one, two = harness.connect(), harness.connect()
    for member in (one, two):
        member.subscribe("work", name="team", shared=True, start="time", start_value=1)
    assert one.subscribed == two.subscribed == {}
    one.disconnect()
    harness.reads_are_held = False
    harness.settle()
    assert sequences(two) == [1, 2, 3, 4]


def test_who_cannot_be_recorded_is_refused_and_the_others_too() -> None:
    harness = Harness()
    harness.store_is_held = True
    one, two = harness.connect(), harness.connect()
    for member in (one, two):
        member.subscribe("work", name="team", shared=True)
    while harness.under_way and not (one.refusals and two.refusals):
        harness.refuse()
    assert len(one.refusals) == len(two.refusals) == 1
    assert "team" not in harness.broker.state.subscriptions


# --- everything together ---

ACTIONS = ("publish", "ack", "nack", "lose", "join", "time")


def test_in_all_short_stories_every_message_is_acked_once_by_somebody() -> None:
    for story in product(ACTIONS, repeat=4):
        harness, members = shared(2, in_flight_max=3, ack_timeout_ms=1000)
        publisher = harness.connect()
        publisher.publish("work", *"abcd")
        holding = Holding()
        for step, action in enumerate(story):
            holding.take(members)
            member = members[step % len(members)] if members else None
            if action == "publish":
                publisher.publish("work", *"ab")
            elif action == "join":
                members.append(join(harness))
            elif action == "time":
                harness.advance(600)
            elif member is None or not holding.of(member):
                continue
            elif action == "ack":
                holding.ack(member, holding.of(member)[0])
            elif action == "nack":
                sequence = holding.of(member)[-1]
                member.nack(1, sequence, queue="work")
            elif action == "lose":
                members.remove(member)
                member.disconnect()
        members = members or [join(harness)]
        for _ in range(20):
            harness.advance(1)
            holding.take(members)
            for member in members:
                for sequence in holding.of(member):
                    holding.ack(member, sequence)
        info = publisher.subscriptions()["team"]
        assert (info.lag, info.in_flight, info.dead) == (0, 0, 0), story


class Holding:
    """What each member was given last of all, message by message."""

    def __init__(self) -> None:
        self._holders: dict[int, Client] = {}

    def take(self, members: list[Client]) -> None:
        for member in members:
            for sequence in sequences(member):
                self._holders[sequence] = member

    def of(self, member: Client) -> list[int]:
        return sorted(sequence for sequence, holder in self._holders.items() if holder is member)

    def ack(self, member: Client, sequence: int) -> None:
        del self._holders[sequence]
        ack(member, sequence)
        member.refusals.clear()  # it may have been taken away meanwhile


def _send_buffer(client: Client, *, full: bool) -> Any:
    return SendBuffer(client.connection, full)
