"""Tickets and the standing of addresses, on a clock of the test's."""

from __future__ import annotations

import secrets

from hypothesis import given
from hypothesis import strategies as st

from peatnet.net.lanes.tickets import (
    FAILURES_FADE,
    MAX_ADDRESSES,
    MAX_FAILURES,
    MAX_TICKETS,
    MAX_TICKETS_PER_PEER,
    REFUSED_FOR,
    TICKET_BYTES,
    TICKET_LIFE,
    AddressStanding,
    Tickets,
)


def tickets() -> Tickets:
    return Tickets(secrets.token_bytes)


def test_a_ticket_is_good_once() -> None:
    out = tickets()
    (ticket,) = out.issue("ann", 1, 0.0)
    assert len(ticket) == TICKET_BYTES
    assert out.redeem(ticket, 1.0) == "ann"
    assert out.redeem(ticket, 1.0) is None
    assert len(out) == 0


def test_a_ticket_is_good_for_a_while() -> None:
    out = tickets()
    first, second = out.issue("ann", 2, 0.0)
    assert out.redeem(first, TICKET_LIFE - 0.001) == "ann"
    assert out.redeem(second, TICKET_LIFE) is None
    assert len(out) == 0


def test_what_was_never_given_opens_nothing() -> None:
    out = tickets()
    out.issue("ann", 4, 0.0)
    assert out.redeem(bytes(TICKET_BYTES), 0.0) is None
    assert out.redeem(b"", 0.0) is None
    assert len(out) == 4


def test_a_withdrawn_ticket_opens_nothing() -> None:
    out = tickets()
    (anns,), (bobs,) = out.issue("ann", 1, 0.0), out.issue("bob", 1, 0.0)
    out.withdraw("ann")
    out.withdraw("nobody")
    assert out.redeem(anns, 0.0) is None
    assert out.redeem(bobs, 0.0) == "bob"


def test_one_peer_holds_so_many() -> None:
    out = tickets()
    given_out = [out.issue("ann", 4, 0.0) for _ in range(10)]
    assert sum(map(len, given_out)) == MAX_TICKETS_PER_PEER
    assert out.issue("ann", 1, TICKET_LIFE / 2) == []
    assert len(out.issue("ann", 4, TICKET_LIFE)) == 4


def test_all_peers_hold_so_many() -> None:
    out = tickets()
    for number in range(MAX_TICKETS):
        out.issue(f"peer {number}", 2, 0.0)
    assert len(out) == MAX_TICKETS
    assert out.issue("one more", 1, 0.0) == []
    assert len(out.issue("one more", 1, TICKET_LIFE)) == 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["issue", "redeem", "withdraw", "wait"]),
            st.sampled_from(["ann", "bob"]),
            st.integers(0, 5),
        )
    )
)
def test_each_ticket_opens_one_lane_of_its_peer_or_none(
    steps: list[tuple[str, str, int]],
) -> None:
    out, now = tickets(), 0.0
    held: dict[bytes, tuple[str, float]] = {}
    for step, peer, number in steps:
        if step == "issue":
            held |= dict.fromkeys(out.issue(peer, number, now), (peer, now))
        elif step == "redeem" and number < len(held):
            ticket = list(held)[number]
            owner, since = held.pop(ticket)
            found = out.redeem(ticket, now)
            assert found == (owner if now < since + TICKET_LIFE else None)
        elif step == "withdraw":
            out.withdraw(peer)
            held = {ticket: one for ticket, one in held.items() if one[0] != peer}
        else:
            now += number
        assert len(out) <= 2 * MAX_TICKETS_PER_PEER


def test_an_address_is_refused_after_too_many_failures_and_let_in_again() -> None:
    standing = AddressStanding()
    for _ in range(MAX_FAILURES - 1):
        assert not standing.failed("192.0.2.1", 5.0)
        assert not standing.refuses("192.0.2.1", 5.0)
    assert standing.failed("192.0.2.1", 5.0)
    assert standing.refuses("192.0.2.1", 5.0 + REFUSED_FOR - 0.1)
    assert not standing.refuses("192.0.2.2", 5.0)
    assert not standing.refuses("192.0.2.1", 5.0 + REFUSED_FOR)
    assert not standing.failed("192.0.2.1", 5.0 + REFUSED_FOR)


def test_failures_fade() -> None:
    standing = AddressStanding()
    pause = 1.01 * FAILURES_FADE / MAX_FAILURES
    assert not any(standing.failed("192.0.2.1", number * pause) for number in range(1000))


def test_the_standing_of_addresses_is_bounded() -> None:
    standing = AddressStanding()
    for number in range(2 * MAX_ADDRESSES):
        standing.failed(f"address {number}", 0.0)
    assert len(standing) == MAX_ADDRESSES
