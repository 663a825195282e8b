"""Sets of chunks as integers, and bit-sliced rarity, against the plain way to do it."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peatnet.errors import LocalProtocolError
from peatnet.swarm.availability import ChunkSet, Rarity, bits_of, choose, mask_of

N = 150
INDEX = st.integers(0, N - 1)
SETS = st.sets(INDEX)


def as_mask(indices: set[int]) -> int:
    return sum(1 << index for index in indices)


@given(SETS, st.lists(st.tuples(st.booleans(), INDEX)))
@settings(deadline=None)
def test_a_chunk_set_is_a_set(start: set[int], steps: list[tuple[bool, int]]) -> None:
    chunks = ChunkSet(N, as_mask(start))
    expected = set(start)
    for add, index in steps:
        changed = chunks.add(index) if add else chunks.discard(index)
        assert changed == ((index not in expected) if add else (index in expected))
        expected ^= {index} if changed else set()
        assert chunks.mask == as_mask(expected)
    assert chunks.count == len(expected)
    assert {index for index in range(N) if index in chunks} == expected
    assert set(bits_of(chunks.mask)) == expected
    assert ChunkSet.from_bitmap(N, chunks.to_bytes(), what="test").mask == chunks.mask
    assert mask_of(expected, N) == chunks.mask


@pytest.mark.parametrize("bitmap", [b"", b"\0", b"\0\0\0", b"\xff\x04"])
def test_a_bitmap_of_the_wrong_shape_is_refused(bitmap: bytes) -> None:
    with pytest.raises(LocalProtocolError, match="here: bitmap"):
        ChunkSet.from_bitmap(10, bitmap, what="here")


@given(st.lists(SETS, max_size=12), st.data())
@settings(deadline=None)
def test_rarity_counts_and_finds_the_rarest(holders: list[set[int]], data: st.DataObject) -> None:
    rarity = Rarity()
    for holding in holders:
        rarity.add(as_mask(holding))
    leaving = data.draw(st.integers(0, len(holders)))
    for holding in holders[:leaving]:
        rarity.remove(as_mask(holding))
    counts = Counter(index for holding in holders[leaving:] for index in holding)
    assert [rarity.count(index) for index in range(N)] == [counts[index] for index in range(N)]
    assert set(bits_of(rarity.held())) == set(counts)
    candidates = data.draw(SETS)
    fewest = min((counts[index] for index in candidates), default=0)
    rarest = {index for index in candidates if counts[index] == fewest}
    assert set(bits_of(rarity.rarest(as_mask(candidates)))) == rarest


@given(st.sets(INDEX, min_size=1), st.integers(1, 8), st.integers(0, 99))
@settings(deadline=None)
def test_choice_is_a_run_of_members(members: set[int], limit: int, seed: int) -> None:
    chosen = choose(as_mask(members), limit, random.Random(seed))
    ascending = sorted(members)
    start = ascending.index(chosen[0])
    assert chosen == ascending[start : start + limit]


@given(st.sets(INDEX, min_size=1), st.integers(1, 20), st.integers(0, 99))
@settings(deadline=None)
def test_a_choice_among_the_lowest(members: set[int], among: int, seed: int) -> None:
    (chosen,) = choose(as_mask(members), 1, random.Random(seed), among=among)
    assert chosen in sorted(members)[:among]


def test_a_choice_among_the_lowest_of_very_many() -> None:
    rng = random.Random(7)
    members = as_mask(set(range(100, 2100)))
    chosen = {choose(members, 1, rng, among=500)[0] for _ in range(5000)}
    assert chosen <= set(range(100, 600))
    assert len(chosen) > 490


def test_each_member_is_as_likely_wherever_the_gaps_are() -> None:
    members = {0, 1, 2, 100, 140}
    rng = random.Random(7)
    times = Counter(choose(as_mask(members), 1, rng)[0] for _ in range(5000))
    assert set(times) == members
    assert all(850 < seen < 1150 for seen in times.values())
