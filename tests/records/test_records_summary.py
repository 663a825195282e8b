from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peatnet.errors import RemoteProtocolError
from peatnet.records import (
    MAX_SEQUENCE,
    SUMMARY_BYTES,
    SlotSummary,
    pack_summaries,
    unpack_summaries,
)
from peatnet.records.summary import SetDigest

if TYPE_CHECKING:
    from random import Random

ids = st.binary(min_size=32, max_size=32)
summaries = st.builds(
    SlotSummary,
    st.binary(min_size=16, max_size=16),
    st.integers(0, MAX_SEQUENCE),
    st.binary(min_size=8, max_size=8),
)
summary_lists = st.lists(summaries, max_size=10, unique_by=lambda item: item.slot)


@given(summary_lists)
@settings(deadline=None)
def test_round_trip(items: list[SlotSummary]) -> None:
    data = pack_summaries(items)
    assert len(data) == SUMMARY_BYTES * len(items)
    assert unpack_summaries(data, limit=len(items)) == sorted(items)


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        items = unpack_summaries(data, limit=100)
    except RemoteProtocolError:
        return
    assert pack_summaries(items) == data


def entry(slot: int, sequence: int = 1) -> bytes:
    return bytes([slot]) * 16 + sequence.to_bytes(8, "big") + bytes(8)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (entry(1)[:-1], "31 bytes"),
        (entry(1) + b"\0", "33 bytes"),
        (entry(1) + entry(1), "ascending"),
        (entry(2) + entry(1), "ascending"),
        (entry(1, 2**63), "out of range"),
        (entry(1) + entry(2) + entry(3) + entry(4), "4 slot summaries, at most 3"),
    ],
)
def test_lists_that_break_a_rule(data: bytes, message: str) -> None:
    with pytest.raises(RemoteProtocolError, match=message):
        unpack_summaries(data, limit=3)


@pytest.mark.parametrize(
    ("slot", "sequence", "tie"),
    [(15, 0, 8), (17, 0, 8), (16, 0, 7), (16, 0, 9), (16, -1, 8), (16, 2**63, 8)],
)
def test_a_summary_checks_its_fields(slot: int, sequence: int, tie: int) -> None:
    with pytest.raises(RemoteProtocolError):
        SlotSummary(bytes(slot), sequence, bytes(tie))


def digest_of(items: list[bytes]) -> bytes:
    digest = SetDigest()
    for item in items:
        digest.add(item)
    return digest.digest()


@given(st.lists(ids, unique=True, max_size=8), st.randoms(use_true_random=False), ids)
@settings(deadline=None)
def test_the_digest_is_that_of_the_set(items: list[bytes], random: Random, other: bytes) -> None:
    shuffled = list(items)
    random.shuffle(shuffled)
    assert digest_of(shuffled) == digest_of(items)
    if other not in items:
        digest = SetDigest()
        for item in [other, *items]:
            digest.add(item)
        assert digest.digest() != digest_of(items)
        digest.remove(other)
        assert digest.digest() == digest_of(items)


def test_the_digest_follows_its_description() -> None:
    from blake3 import blake3

    items = [bytes([number]) * 32 for number in range(5)]
    total = sum(
        int.from_bytes(
            blake3(item, derive_key_context="peatnet catalogue digest v1").digest(length=512),
            "little",
        )
        for item in items
    )
    expected = blake3((total % 2**4096).to_bytes(512, "little")).digest()
    assert digest_of(items) == expected
