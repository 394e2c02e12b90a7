"""Shares: what of a queue goes to which member of a shared subscription."""

from __future__ import annotations

from collections.abc import Iterator

from tidings.batch import StoredBatch
from tidings.broker.cursors import Cursor, in_pieces, split
from tidings.broker.keys import Keys, has_keys
from tidings.broker.members import Member, Members
from tidings.broker.parcels import Parcel
from tidings.broker.sessions import Session
from tidings.broker.state import BrokerState


class Shares:
    """What the members of a shared subscription are to get of one queue in this turn; used like a `Parcel`."""

    def __init__(
        self, state: BrokerState, members: Members, cursor: Cursor, bursts: dict[Session, int] | None = None
    ) -> None:
        self._members = members
        self._cursor = cursor
        chosen = _one_of_each_limited(sorted(members.active, key=lambda member: member.served))
        self._parcels = [(member, Parcel(state, member, cursor, bursts)) for member in chosen]

    def fits(self, row: StoredBatch) -> bool:
        """Whether it is worth to take from a row, rather than to read it later."""
        return any(parcel.fits(row) for _, parcel in self._parcels)

    def take(self, row: StoredBatch) -> bool:
        """Takes what is wanted of a row and whose key is free; returns whether something is left to take later."""
        cursor = self._cursor
        if cursor.keys is not None:
            self._members.look_for_a_crowd(cursor.keys.waiting, cursor.in_flight)
        selected, wanted = cursor.wanted(row)
        open_ones = [(member, parcel, room) for member, parcel in self._parcels if (room := parcel.room()) > 0]
        ready, rest = self._admit(row, wanted, cursor.room(sum(room for *_, room in open_ones)))
        count = sum(last - first + 1 for first, last in ready)
        counts = share_out(count, [(parcel.load(), room) for _, parcel, room in open_ones])
        for (member, parcel, _), given in zip(open_ones, counts, strict=True):
            if given:
                mine, ready = split(ready, given)
                parcel.add(cursor.hand_out(row, selected, mine))
                self._members.served(member)
        cursor.pass_by(row, rest)
        return bool(rest)

    def _admit(
        self, row: StoredBatch, wanted: list[tuple[int, int]], room: int
    ) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        cursor = self._cursor
        wanted, more = in_pieces(wanted)
        if not has_keys(row):
            ready, rest = split(wanted, room)
            return ready, rest + more
        cursor.keys = cursor.keys or Keys()
        admission = cursor.keys.admit(row, wanted, room, len(cursor.parked))
        for sequence in admission.waiting:
            cursor.let_follow(sequence)
        return admission.ready, admission.rest + more

    def send(self) -> None:
        """Sends what was taken."""
        for _, parcel in self._parcels:
            parcel.send()


def _one_of_each_limited(members: list[Member]) -> Iterator[Member]:
    """Yields members, of each client with a quota in flight one that has room: each of them alone could use it up."""
    limited: set[Session] = set()
    for member in members:
        session = member.session
        if session.in_flight_max is not None:
            if session in limited or member.room() <= 0:
                continue
            limited.add(session)
        yield member


def share_out(count: int, members: list[tuple[int, int]]) -> list[int]:
    """Returns how many of `count` messages each of several members gets, given as (in flight, room).

    All are brought to the same number in flight, whoever has more already gets nothing. That is not exact where all
    have many: then fewer get more at once, since each piece costs a delivery. Of equals the first ones get more.
    """
    if not members:
        return []
    order = sorted(range(len(members)), key=lambda index: members[index][0])
    total, sharing = count + sum(load for load, _ in members), len(order)
    while sharing > 1 and members[order[sharing - 1]][0] * sharing >= total:
        sharing -= 1
        total -= members[order[sharing]][0]
    least = members[order[0]][0]
    level = -(-total // sharing) + least // 4
    counts = [0] * len(members)
    for index in order:
        load, room = members[index]
        counts[index] = max(0, min(level - load, room, count))
        count -= counts[index]
    for index in order:  # where windows are too small for equal numbers, the others take the rest
        more = min(members[index][1] - counts[index], count)
        counts[index] += more
        count -= more
    return counts
