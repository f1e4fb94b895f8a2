"""The routing table over any history: bounded, honest about who answers, loyal to its contacts."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from zmqex.dht.address import Address, Scope, network_of, scope_of
from zmqex.dht.limits import DHT_CONTACT_FORGET_MS, DHT_CONTACTS_PER_HOST_MAX, DHT_K
from zmqex.dht.table import RoutingTable, distance

OWN = b"\0" * 20
# Few enough that ids, addresses and whole hosts come again, and that near buckets fill up.
IDS = st.integers(0, 1).flatmap(
    lambda shared: st.integers(0, 63).map(
        lambda low: ((low + 64) << 152 >> shared).to_bytes(20, "big")
    )
)
HOSTS = st.sampled_from(["127.0.0.1", "10.0.0.1", "8.8.8.8", "9.9.9.9", "2600::1", "2600::2"])
ADDRESSES = st.tuples(HOSTS, st.integers(1, 40))
ANSWERS = st.lists(st.tuples(IDS, ADDRESSES), min_size=1, max_size=30)


class Table(RuleBasedStateMachine):
    """A table, and who answered last from each address."""

    def __init__(self) -> None:
        """Start empty."""
        super().__init__()
        self.table = RoutingTable(OWN)
        self.now_ms = 0
        self.seen: dict[Address, tuple[bytes, int]] = {}

    @initialize(crowd=st.integers(0, 2 * DHT_K))
    def crowded(self, crowd: int) -> None:
        """Begin with many who answered, all of one bucket."""
        for number in range(crowd):
            self._replied((number + 64 << 152).to_bytes(20, "big"), ("10.0.0.1", 100 + number))

    @rule(answers=ANSWERS)
    def replied(self, answers: list[tuple[bytes, Address]]) -> None:
        """Each answer is noted, or nothing changes but what stood at the same address."""
        for node_id, address in answers:
            self._replied(node_id, address)

    def _replied(self, node_id: bytes, address: Address) -> None:
        loyal = [one for one in self.table if one.failures < 2 and one.node_id != node_id]
        before = {one.address: one.node_id for one in loyal}
        wanted = self.table.wants(node_id, address)
        new = self.table.replied(node_id, address, self.now_ms)
        after = {one.address: one.node_id for one in self.table}
        assert wanted or not new or address in before
        if after.get(address) == node_id:
            self.seen[address] = node_id, self.now_ms
        # Nobody who answers, or was silent only once, is pushed out by somebody else.
        kept = {at: one for at, one in before.items() if at != address}
        assert kept.items() <= after.items()

    @rule(addresses=st.lists(ADDRESSES, min_size=1, max_size=20), again=st.booleans())
    def failed(self, addresses: list[Address], again: bool) -> None:  # noqa: FBT001 - a draw
        """The first silence of a contact is told, and only that."""
        for address in addresses * (1 + again):
            failures = {one.address: one.failures for one in self.table}
            assert self.table.failed(address) is (failures.get(address) == 0)

    @rule(elapsed_ms=st.sampled_from([1, 1_000, DHT_CONTACT_FORGET_MS]))
    def time_goes_on(self, elapsed_ms: int) -> None:
        """Only who was silent twice and for long is forgotten."""
        self.now_ms += elapsed_ms
        before = list(self.table)
        self.table.forget(self.now_ms)
        for one in before:
            lost = one.failures > 1 and self.now_ms - one.seen_ms >= DHT_CONTACT_FORGET_MS
            assert (one.address in self.table) is not lost

    @rule(aim=IDS, count=st.integers(1, 2 * DHT_K))
    def closest(self, aim: bytes, count: int) -> None:
        """The nearest good ones, as a sort of all of them says; bad ones only if none is good."""
        good = [one for one in self.table if not one.failures] or list(self.table)
        nearest = sorted(good, key=lambda one: distance(one.node_id, aim))[:count]
        found = self.table.closest(aim, count)
        assert [distance(one.node_id, aim) for one in found] == [
            distance(one.node_id, aim) for one in nearest
        ]

    @rule(randomness=st.binary(min_size=20, max_size=20))
    def refresh(self, randomness: bytes) -> None:
        """What is refreshed is in a bucket that has contacts."""
        target = self.table.refresh_target(self.now_ms, randomness)
        if target is not None:
            buckets = {distance(OWN, one.node_id).bit_length() for one in self.table}
            assert distance(OWN, target).bit_length() in buckets

    @invariant()
    def bounds(self) -> None:
        """Buckets, public hosts, one entry an address; never ourselves, nor who never answered."""
        buckets: dict[int, int] = {}
        crowds: dict[str, int] = {}
        for one in self.table:
            bucket = distance(OWN, one.node_id).bit_length()
            buckets[bucket] = buckets.get(bucket, 0) + 1
            if scope_of(one.address[0]) is Scope.PUBLIC:
                network = network_of(one.address[0])
                crowds[network] = crowds.get(network, 0) + 1
            assert self.seen[one.address] == (one.node_id, one.seen_ms)
        assert max(buckets.values(), default=0) <= DHT_K
        assert max(crowds.values(), default=0) <= DHT_CONTACTS_PER_HOST_MAX
        addresses = [one.address for one in self.table]
        ids = [one.node_id for one in self.table]
        assert len(set(addresses)) == len(addresses) == len(self.table)
        assert len(set(ids)) == len(ids)
        assert OWN not in ids
        assert self.table.good == sum(not one.failures for one in self.table)


Table.TestCase.settings = settings(max_examples=50, stateful_step_count=30)
test_a_table_over_any_history = Table.TestCase
