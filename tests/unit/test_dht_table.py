"""The routing table: old friends stay, silent ones go, the nearest are found."""

from __future__ import annotations

import pytest

from zmqex.dht.address import Address
from zmqex.dht.limits import (
    DHT_BUCKET_REFRESH_MS,
    DHT_CONTACT_FORGET_MS,
    DHT_CONTACTS_PER_HOST_MAX,
    DHT_K,
)
from zmqex.dht.table import RoutingTable, distance, position_of

OWN = b"\0" * 20


def _id(number: int) -> bytes:
    """Return an id of the far half, so that all of them share one bucket."""
    return b"\x80" + number.to_bytes(19, "big")


def _at(number: int) -> Address:
    return ("127.0.0.1", number)


def _full() -> RoutingTable:
    table = RoutingTable(OWN)
    for number in range(1, DHT_K + 1):
        assert table.replied(_id(number), _at(number), number)
    return table


def test_a_bucket_keeps_its_old_contacts() -> None:
    """A newcomer waits as long as everybody answers."""
    table = _full()
    assert not table.wants(_id(99), _at(99))
    assert not table.replied(_id(99), _at(99), 50)
    assert len(table) == DHT_K
    assert _at(99) not in table


def test_a_newcomer_takes_the_place_of_who_was_silent_twice() -> None:
    """One lost datagram is forgiven, two are not."""
    table = _full()
    assert table.failed(_at(3)) is True
    assert not table.wants(_id(99), _at(99))
    assert table.failed(_at(3)) is False
    assert table.wants(_id(99), _at(99))
    assert table.replied(_id(99), _at(99), 50)
    assert _at(3) not in table
    assert len(table) == DHT_K


def test_an_answer_clears_the_silences() -> None:
    """Then there is nothing to find out about it any more."""
    table = _full()
    table.failed(_at(3))
    assert table.good == DHT_K - 1
    assert table.wants(_id(3), _at(3))
    assert not table.replied(_id(3), _at(3), 60)
    assert table.good == DHT_K
    assert not table.wants(_id(3), _at(3))


def test_an_unknown_address_cannot_fail() -> None:
    """Nothing is noted about strangers."""
    assert RoutingTable(OWN).failed(_at(1)) is False


def test_our_own_id_never_gets_in() -> None:
    """We are not our own contact."""
    table = RoutingTable(OWN)
    assert not table.wants(OWN, _at(1))
    assert not table.replied(OWN, _at(1), 0)


def test_a_living_contact_keeps_its_id_against_a_thief() -> None:
    """Only when it falls silent may its id appear elsewhere."""
    table = _full()
    assert not table.wants(_id(3), _at(77))
    table.failed(_at(3))
    assert table.replied(_id(3), _at(77), 60)
    assert _at(3) not in table
    assert _at(77) in table


def test_a_node_started_anew_replaces_itself() -> None:
    """Another id at the same address: the old one is gone."""
    table = _full()
    assert table.replied(_id(99), _at(3), 60)
    assert len(table) == DHT_K
    assert {contact.node_id for contact in table} >= {_id(99)}


def test_a_public_host_gets_at_most_half_a_bucket() -> None:
    """A private or local one is not counted; room comes back when contacts go."""
    table = RoutingTable(OWN)
    for number in range(1, 100):
        table.replied(number.to_bytes(20, "big"), ("8.8.8.8", number), 0)
    assert len(table) == DHT_CONTACTS_PER_HOST_MAX

    first = next(iter(table))
    for _ in range(2):
        table.failed(first.address)
    table.forget(DHT_CONTACT_FORGET_MS)
    assert table.wants(_id(1), ("8.8.8.8", 500))


def test_the_nearest_come_first_and_only_good_ones() -> None:
    """Distance is the exclusive or; with nobody good a doubtful guess is given."""
    table = RoutingTable(OWN)
    for number in (1, 2, 3, 4):
        table.replied(number.to_bytes(20, "big"), _at(number), 0)
    table.failed(_at(3))
    target = (3).to_bytes(20, "big")
    assert [contact.address[1] for contact in table.closest(target)] == [2, 1, 4]
    assert len(table.closest(target, 1)) == 1

    for number in (1, 2, 4):
        table.failed(_at(number))
    assert [contact.address[1] for contact in table.closest(target)] == [3, 2, 1, 4]


def test_silent_contacts_are_called_again_and_at_last_forgotten() -> None:
    """The longest unseen first; forgotten 15 minutes after its last answer, if silent twice."""
    table = _full()
    for number in (5, 2):
        table.failed(_at(number))
        table.failed(_at(number))
    table.failed(_at(9))
    assert [contact.address for contact in table.doubtful(2)] == [_at(2), _at(5)]

    table.forget(2 + DHT_CONTACT_FORGET_MS)
    assert _at(2) not in table
    assert _at(5) in table
    table.forget(9 + DHT_CONTACT_FORGET_MS)
    assert _at(5) not in table
    assert _at(9) in table


@pytest.mark.parametrize("chance", [b"\0" * 20, b"\xff" * 20])
def test_the_longest_unchanged_bucket_is_refreshed(chance: bytes) -> None:
    """Its random target lies in that very bucket; then it is fresh for five minutes."""
    table = RoutingTable(OWN)
    assert table.refresh_target(10**9, chance) is None
    near, far = b"\0" * 19 + b"\x05", _id(1)
    table.replied(near, _at(1), 100)
    table.replied(far, _at(2), 0)
    assert table.refresh_target(DHT_BUCKET_REFRESH_MS - 1, chance) is None

    target = table.refresh_target(DHT_BUCKET_REFRESH_MS, chance)
    assert target is not None
    assert target[0] & 0x80
    assert table.refresh_target(DHT_BUCKET_REFRESH_MS, chance) is None

    target = table.refresh_target(DHT_BUCKET_REFRESH_MS + 100, chance)
    assert target is not None
    assert int.from_bytes(target, "big").bit_length() == 3


def test_an_emptied_bucket_leaves_nothing_behind() -> None:
    """No refresh of a bucket without contacts."""
    table = RoutingTable(OWN)
    table.replied(_id(1), _at(1), 0)
    table.failed(_at(1))
    table.failed(_at(1))
    table.forget(DHT_CONTACT_FORGET_MS)
    assert len(table) == 0
    assert table.refresh_target(10**9, b"\0" * 20) is None


def test_names_of_any_length_have_a_position() -> None:
    """Short ones are filled up, long ones cut, 20 bytes stay as they are."""
    assert position_of(b"exchange") == b"exchange" + b"\0" * 12
    assert position_of(b"a" * 20) == b"a" * 20
    assert position_of(b"a" * 20 + b"b") == b"a" * 20
    assert distance(b"\0\x03", b"\0\x05") == 6
