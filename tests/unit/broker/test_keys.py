"""Keys: of one key one message after another, in order, whoever it goes to and whatever fails."""

from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.unit.broker.harness import Client, Harness
from tidings import limits
from tidings.broker.inputs import Resume
from tidings.calls import Seek


def shared(count: int, **options: Any) -> tuple[Harness, list[Client]]:
    """Returns a harness, and members of the subscription "team" to the queue "work"."""
    harness = Harness()
    return harness, [join(harness, **options) for _ in range(count)]


def join(harness: Harness, **options: Any) -> Client:
    client = harness.connect()
    client.subscribe("work", name="team", shared=True, start="earliest", **options)
    return client


def publish(client: Client, keys: str) -> None:
    """Publishes a message for each letter, which is its key; "." has none."""
    client.publish("work", keys=[None if key == "." else key for key in keys])


def sequences(client: Client) -> list[int]:
    return [message.sequence for message in client.take(1)]


def ack(client: Client, *numbers: int) -> None:
    for number in numbers:
        client.ack(1, number, queue="work")


def test_of_one_key_one_message_is_in_flight_at_a_time() -> None:
    _, (one, two) = shared(2)
    publish(one, "aaab")
    assert (sequences(one), sequences(two)) == ([1], [4])
    ack(two, 4)
    assert sequences(one) == sequences(two) == []
    ack(one, 1)
    assert sequences(one) + sequences(two) == [2]


def test_what_has_followed_is_no_redelivery_when_its_turn_comes() -> None:
    _, (one, two) = shared(2)
    publish(one, "aaa")
    one.take()
    ack(one, 1)
    [message] = one.take() + two.take()
    assert (message.sequence, message.attempt, message.redelivered) == (2, 1, False)
    for member in (one, two):
        member.disconnect()
    [message] = join(one.harness).take()
    assert (message.sequence, message.redelivered) == (2, True)


def test_what_has_no_key_waits_for_nothing() -> None:
    _, (one, two) = shared(2)
    publish(one, "a.a..a")
    assert (sequences(one), sequences(two)) == ([1, 2], [4, 5])


@pytest.mark.parametrize("how", ["acked", "dead"])
def test_a_settled_message_frees_its_key(how: str) -> None:
    _, (one,) = shared(1)
    publish(one, "aab")
    assert sequences(one) == [1, 3]
    if how == "acked":
        ack(one, 1)
    else:
        one.nack(1, 1, queue="work", reject=True)
    assert sequences(one) == [2]


def test_a_failing_key_stops_no_other_and_keeps_its_order() -> None:
    harness, (one, two) = shared(2, backoff_min_ms=1000, backoff_max_ms=1000)
    publish(one, "aabb")
    assert (sequences(one), sequences(two)) == ([1], [3])
    one.nack(1, 1, queue="work")
    ack(two, 3)
    assert sequences(one) + sequences(two) == [4]
    publish(one, "a")
    harness.advance(1000)
    assert sequences(one) + sequences(two) == [1]
    info = one.subscriptions()["team"]
    assert (info.in_flight, info.retrying) == (2, 0)


def test_listings_do_not_take_followers_for_retries() -> None:
    _, (one,) = shared(1)
    publish(one, "aaa")
    info = one.subscriptions()["team"]
    assert (info.in_flight, info.retrying, info.lag) == (1, 0, 3)


@pytest.mark.parametrize("farewell", [False, True])
def test_a_member_that_leaves_gives_its_keys_to_the_others_in_order(farewell: bool) -> None:
    _, (one, two) = shared(2)
    publish(one, "aab")
    assert (sequences(one), sequences(two)) == ([1], [3])
    one.disconnect(farewell=farewell)
    assert sequences(two) == [1]
    ack(two, 1)
    assert sequences(two) == [2]


def test_a_late_ack_of_a_key_that_another_member_has_now_frees_nothing() -> None:
    harness, (one, two) = shared(2, ack_timeout_ms=1000)
    publish(one, "aa")
    assert sequences(one) == [1]
    harness.advance(1000)
    assert sequences(two) == [1]
    ack(one, 1)
    assert sequences(one) == sequences(two) == []
    ack(two, 1)
    assert sequences(one) + sequences(two) == [2]


def test_acks_told_again_after_a_reconnect_free_only_what_nobody_has() -> None:
    harness, (one, two) = shared(2)
    publish(one, "aab")
    one.take(), two.take()
    one.disconnect()
    assert sequences(two) == [1]
    again = harness.connect()
    again.subscribe("work", name="team", shared=True, resume=[Resume(harness.epoch("work"), 2, [(1, 1)])])
    assert sequences(again) == sequences(two) == []


def test_acks_told_again_free_keys_of_what_waits_for_the_next_subscriber() -> None:
    harness, (one,) = shared(1)
    publish(one, "aab")
    one.disconnect()
    again = harness.connect()
    again.subscribe("work", name="team", shared=True, resume=[Resume(harness.epoch("work"), 2, [(1, 1)])])
    assert sequences(again) == [2, 3]


def test_after_a_restart_keys_keep_their_order_also_behind_a_retry() -> None:
    harness, (one,) = shared(1, backoff_min_ms=5000, backoff_max_ms=5000)
    publish(one, "aabba")
    assert sequences(one) == [1, 3]
    one.nack(1, 1, queue="work")
    harness.flush()
    harness.restart()
    one = join(harness, backoff_min_ms=5000, backoff_max_ms=5000)
    assert sequences(one) == [3]  # 1 waits for its retry, and 2 and 5 for 1
    publish(one, "a")
    ack(one, 3)
    assert sequences(one) == [4]
    harness.advance(5000)
    assert sequences(one) == [1]
    for sequence in (1, 2, 5):
        ack(one, sequence)
    assert sequences(one) == [2, 5, 6]


def test_keys_hold_for_a_single_active_member_and_its_successor() -> None:
    _, (one, two) = shared(2, single_active=True)
    publish(one, "aab")
    assert (sequences(one), sequences(two)) == ([1, 3], [])
    one.disconnect()
    assert sequences(two) == [1, 3]
    ack(two, 1)
    assert sequences(two) == [2]


def test_a_transaction_frees_a_key_only_once_it_is_durable() -> None:
    harness, (one,) = shared(1)
    publish(one, "aa")
    assert sequences(one) == [1]
    harness.store_is_held = True
    one.transact("done", acks=[(1, "work", 1, 1)])
    assert sequences(one) == []
    harness.commit()
    assert sequences(one) == [2]


def test_filters_and_keys_go_together() -> None:
    harness = Harness()
    client = harness.connect()
    client.subscribe("work", "x", name="team", shared=True)
    client.publish("work", *"xyxyx", keys=list("aabba"))
    assert sequences(client) == [1, 3]
    ack(client, 1)
    assert sequences(client) == [5]


def test_too_many_followers_pause_the_subscription_until_their_key_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PARKED_MAX", 3)
    _, (one,) = shared(1)
    publish(one, "aaaaaab")
    assert sequences(one) == [1]
    assert "3 messages wait" in one.subscriptions()["team"].paused
    for sequence in (1, 2, 3):
        ack(one, sequence)
    assert sequences(one) == [2, 3, 7, 4]  # 7 as soon as 4, 5 and 6 are all that wait
    assert one.subscriptions()["team"].paused == ""


def test_at_the_bound_a_restart_reads_what_is_due_without_end_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    harness, (one,) = shared(1, backoff_min_ms=5000, backoff_max_ms=5000)
    publish(one, "abaaaaabbbc")
    one.nack(1, 1, queue="work")
    ack(one, 2)
    harness.flush()
    harness.restart()
    monkeypatch.setattr(limits, "PARKED_MAX", 3)
    one = join(harness, backoff_min_ms=5000, backoff_max_ms=5000)
    assert sequences(one) == []  # 1, 3 and 4 wait, 5 cannot
    assert "3 messages wait" in one.subscriptions()["team"].paused
    harness.advance(5000)
    handled = []
    for _ in range(20):
        for sequence in sequences(one):
            handled.append(sequence)
            ack(one, sequence)
    assert sorted(handled) == [1, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    assert [n for n in handled if n in (1, 3, 4, 5, 6, 7)] == [1, 3, 4, 5, 6, 7]


def test_a_moved_subscription_begins_anew_with_its_keys() -> None:
    harness, (one,) = shared(1)
    publish(one, "aaab")
    one.take()
    one.call(Seek(subscription="team", to="earliest"))
    harness.flush()
    assert sequences(one) == [1, 4]


def test_while_many_wait_for_their_keys_members_get_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CROWDED_IN_FLIGHT_MAX", 4)
    _, (one,) = shared(1)
    publish(one, "abcdef" + "aaaa")
    publish(one, "ghij")
    assert sequences(one) == [1, 2, 3, 4, 5, 6]
    ack(one, 2, 3, 4, 5, 6)  # only 1 is left, and its followers
    assert sequences(one) == [11, 12, 13]


# --- everything together ---


class Team:
    """Members that take what they are given, and a check of each delivery against the order of its key."""

    def __init__(self, count: int, keys: str) -> None:
        self.harness, self.members = shared(count, in_flight_max=3, ack_timeout_ms=1000, attempts_max=4)
        self.publisher = self.harness.connect()
        self.keys = ""
        self.holders: dict[int, Client] = {}
        self.publish(keys)

    def publish(self, keys: str) -> None:
        self.keys += keys
        publish(self.publisher, keys)
        self.take()

    def take(self) -> None:
        """Takes what was delivered: whatever came before it of its key must be settled."""
        state = self.harness.broker.state
        [cursor] = state.subscriptions["team"].cursors.values()
        for member in self.members:
            for sequence in sequences(member):
                key = self.keys[sequence - 1]
                earlier = [n for n in range(1, sequence) if self.keys[n - 1] == key != "." and n in cursor.unsettled]
                assert not earlier, f"{sequence} of key {key!r} before {earlier}"
                self.holders[sequence] = member
            member.refusals.clear()

    def held(self, member: Client) -> list[int]:
        return sorted(sequence for sequence, holder in self.holders.items() if holder is member)

    def act(self, action: str, number: int) -> None:
        member = self.members[number % len(self.members)] if self.members else None
        if action == "join":
            self.members.append(join(self.harness, in_flight_max=3, ack_timeout_ms=1000, attempts_max=4))
        elif action == "time":
            self.harness.advance(600)
        elif action == "restart":
            self.harness.flush()
            self.harness.restart()
            self.members, self.holders = [], {}
            self.publisher = self.harness.connect()
        elif member is not None and action == "lose":
            self.members.remove(member)
            member.disconnect()
            for sequence in self.held(member):
                del self.holders[sequence]
        elif member is not None and self.held(member):
            held = self.held(member)
            sequence = held[number % len(held)]
            del self.holders[sequence]
            if action == "ack":
                ack(member, sequence)
            else:
                member.nack(1, sequence, queue="work", reject=action == "reject")
        self.take()

    def finish(self) -> None:
        """Acks everything that is left."""
        if not self.members:
            self.act("join", 0)
        for _ in range(3 * len(self.keys)):
            self.harness.advance(2)
            self.take()
            for sequence, member in list(self.holders.items()):
                del self.holders[sequence]
                ack(member, sequence)
        self.take()
        info = self.publisher.subscriptions()["team"]
        assert (info.lag, info.in_flight, info.retrying) == (0, 0, 0)


ACTIONS = ("ack", "nack", "lose", "join", "time", "restart")


@pytest.mark.parametrize("keys", ["aabab", "aa.b"])
def test_all_short_stories_keep_the_order_of_each_key(keys: str) -> None:
    for story in product(ACTIONS, repeat=3):
        team = Team(2, keys)
        for number, action in enumerate(story):
            team.act(action, number)
        team.finish()


class Stories(RuleBasedStateMachine):
    """Long stories of some members, acks, failures, losses and restarts."""

    @initialize(count=st.integers(1, 3), keys=st.text("abc.", min_size=1, max_size=12))
    def begin(self, count: int, keys: str) -> None:
        self.team = Team(count, keys)

    @rule(keys=st.text("abc.", min_size=1, max_size=12))
    def publish(self, keys: str) -> None:
        if len(self.team.keys) < 100:
            self.team.publish(keys)

    @rule(action=st.sampled_from(("ack", "ack", "ack", "nack", "reject")), number=st.integers(0, 50))
    def settle(self, action: str, number: int) -> None:
        self.team.act(action, number)

    @precondition(lambda self: len(self.team.members) < 4)
    @rule()
    def join(self) -> None:
        self.team.act("join", 0)

    @rule(action=st.sampled_from(("lose", "time", "time", "restart")), number=st.integers(0, 3))
    def disturb(self, action: str, number: int) -> None:
        self.team.act(action, number)

    def teardown(self) -> None:
        if hasattr(self, "team"):
            self.team.finish()


TestStories = Stories.TestCase
TestStories.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
