"""What a downloader believes of a holder's news, and what it takes for an offence."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peatnet.blobs import Bitmap, ChunkTable, Hash
from peatnet.errors import NoSource, PeatnetError, RemoteProtocolError
from peatnet.net.blob_messages import (
    MAX_MORE,
    HaveReply,
    HaveRequest,
    More,
    Refusal,
    pack_indices,
)
from peatnet.net.holdings import ANEW_BURST, Holdings, Patience

CHUNK = 64 * 1024
N = 12
BLOB = Hash(bytes(32))
TABLE = ChunkTable(N * CHUNK, CHUNK, bytes(32 * N))
PART = HaveReply(0, TABLE.size, CHUNK, TABLE.table_hash, full=False)
FULL = HaveReply(0, TABLE.size, CHUNK, TABLE.table_hash, full=True)
MORE = More(0, full=False)
ALL = More(0, full=True)


def watching(payload: bytes = b"\x03\x00") -> Holdings:
    """One that was told of chunks 0 and 1."""
    holdings = Holdings("peer", BLOB, TABLE, watch=True)
    assert holdings.question(2) == HaveRequest(0, BLOB, watch=True, priority=2)
    assert holdings.have(PART, payload, 0.0) == payload
    return holdings


def test_news_adds_to_what_was_told() -> None:
    holdings = watching()
    assert holdings.more(MORE, pack_indices([5, 2])) == (5, 2)
    assert holdings.more(MORE, pack_indices([11])) == (11,)
    assert holdings.more(ALL, b"") is None
    with pytest.raises(RemoteProtocolError):
        holdings.more(ALL, b"")


def test_who_has_all_has_no_news() -> None:
    holdings = Holdings("peer", BLOB, TABLE, watch=True)
    holdings.question(3)
    assert holdings.have(FULL, b"", 0.0) is None
    for push in (MORE, ALL):
        with pytest.raises(RemoteProtocolError):
            holdings.more(push, pack_indices([3]))
    with pytest.raises(RemoteProtocolError):
        holdings.have(FULL, b"", 0.0)
    holdings.question(3)
    assert holdings.have(FULL, b"", 0.0) is None


@pytest.mark.parametrize(
    "indices", [[0], [12], [2**32 - 1], [5, 5]], ids=["told", "beyond", "far beyond", "twice"]
)
def test_news_of_chunks_that_cannot_be_news(indices: list[int]) -> None:
    with pytest.raises(RemoteProtocolError):
        watching().more(MORE, pack_indices(indices))


def test_news_that_nobody_asked_for() -> None:
    silent = Holdings("peer", BLOB, TABLE, watch=False)
    silent.question(3)
    silent.have(PART, bytes(2), 0.0)
    asked = Holdings("peer", BLOB, TABLE, watch=True)
    asked.question(3)
    absent = Holdings("peer", BLOB, TABLE, watch=True)
    absent.question(3)
    assert absent.refusal(Refusal(0, "absent")) == bytes(2)
    for holdings in (Holdings("peer", BLOB, TABLE, watch=True), silent, asked, absent):
        with pytest.raises(RemoteProtocolError):
            holdings.more(MORE, pack_indices([3]))
    with pytest.raises(RemoteProtocolError):
        watching().more(More(4, full=True), b"")
    with pytest.raises(RemoteProtocolError):
        silent.have(PART, bytes(2), 0.0)
    with pytest.raises(RemoteProtocolError):
        Holdings("peer", BLOB, TABLE, watch=True).have(PART, bytes(2), 0.0)
    with pytest.raises(RemoteProtocolError):
        watching().refusal(Refusal(0, "absent"))


def test_a_holder_that_had_nothing_may_begin_by_itself() -> None:
    holdings = Holdings("peer", BLOB, TABLE, watch=True)
    holdings.question(3)
    holdings.refusal(Refusal(0, "absent"))
    assert holdings.have(PART, b"\x01\x00", 0.0) == b"\x01\x00"
    assert holdings.more(MORE, pack_indices([1])) == (1,)


def test_a_holder_may_begin_anew_but_not_for_ever() -> None:
    holdings = watching()
    for _ in range(int(ANEW_BURST)):
        holdings.have(PART, b"\x01\x00", 0.0)
        holdings.more(MORE, pack_indices([1]))
    with pytest.raises(RemoteProtocolError):
        holdings.have(PART, b"\x01\x00", 0.0)
    holdings.have(PART, b"\x01\x00", 2.0)


def test_a_holder_that_is_busy_or_cut_the_blob_otherwise_is_no_use_but_no_liar() -> None:
    holdings = Holdings("peer", BLOB, TABLE, watch=True)
    holdings.question(3)
    with pytest.raises(NoSource) as caught:
        holdings.refusal(Refusal(0, "busy"))
    assert not isinstance(caught.value, RemoteProtocolError)
    holdings.question(3)
    with pytest.raises(NoSource):
        holdings.have(HaveReply(0, TABLE.size, 2 * CHUNK, TABLE.table_hash, full=True), b"", 0.0)


def test_bitmaps_that_claim_too_much() -> None:
    holdings = Holdings("peer", BLOB, TABLE, watch=True)
    holdings.question(3)
    with pytest.raises(RemoteProtocolError):
        holdings.have(PART, b"\xff\xff", 0.0)


@pytest.mark.parametrize(
    ("reply", "fitting", "others"),
    [
        (PART, [2], [0, 1, 3]),
        (FULL, [0], [2]),
        (MORE, [4, 4 * MAX_MORE], [0, 4 * MAX_MORE + 4]),
        (ALL, [0], [4]),
    ],
)
def test_lengths_are_checked_before_anything_is_read(
    reply: HaveReply | More, fitting: list[int], others: list[int]
) -> None:
    holdings = watching()
    for length in fitting:
        holdings.expect(reply, length)
    for length in others:
        with pytest.raises(RemoteProtocolError):
            holdings.expect(reply, length)


@given(
    st.lists(
        st.one_of(
            st.just("ask"),
            st.sampled_from(["absent", "busy"]),
            st.tuples(st.booleans(), st.binary(min_size=2, max_size=2)),
            st.lists(st.integers(0, N + 1), min_size=1, max_size=4),
            st.just(ALL),
        ),
        max_size=40,
    )
)
def test_whatever_comes_is_believed_or_an_error_of_ours(messages: list[object]) -> None:
    """And nobody can tell more chunks between two answers than there are."""
    holdings = Holdings("peer", BLOB, TABLE, watch=True)
    here = Bitmap(N)
    for message in messages:
        with contextlib.suppress(PeatnetError):
            if message == "ask":
                holdings.question(3)
            elif isinstance(message, str):
                here = Bitmap.from_bytes(holdings.refusal(Refusal(0, message)), N)
            elif isinstance(message, tuple):
                full, payload = message
                told = holdings.have(FULL if full else PART, payload, 0.0)
                here = Bitmap.full(N) if told is None else Bitmap.from_bytes(told, N)
            elif isinstance(message, list):
                gained = holdings.more(MORE, pack_indices(message))
                assert gained is not None
                assert all(here.set(index) for index in gained)
            else:
                assert holdings.more(ALL, b"") is None
                here = Bitmap.full(N)


def test_a_chunk_is_put_off_once() -> None:
    patience = Patience()
    assert [patience.has_for(index) for index in (1, 2, 1, 1, 2, 3)] == [
        True,
        True,
        False,
        False,
        False,
        True,
    ]
