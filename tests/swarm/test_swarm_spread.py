"""What a holder has given to whom: put off once, never for good, and only while it helps."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from peatnet.blobs import Hash
from peatnet.swarm import spread as module
from peatnet.swarm.spread import Spread

BLOB, OTHER = Hash(bytes(32)), Hash(bytes([1] * 32))


def two(n: int = 4) -> Spread:
    spread = Spread()
    spread.joined(BLOB, "a")
    spread.joined(BLOB, "b")
    assert not spread.defers(BLOB, n, 0, "a")
    return spread


def test_what_another_got_is_put_off_once() -> None:
    spread = two()
    assert spread.defers(BLOB, 4, 0, "b")
    assert not spread.defers(BLOB, 4, 0, "b")


def test_what_one_got_itself_is_not_put_off() -> None:
    assert not two().defers(BLOB, 4, 0, "a")


def test_nothing_is_put_off_once_all_has_gone_out() -> None:
    spread = two(n=2)
    assert not spread.defers(BLOB, 2, 1, "b")
    assert not spread.defers(BLOB, 2, 0, "b")


def test_nothing_is_put_off_for_a_lone_downloader_or_a_stranger() -> None:
    spread = two()
    assert not spread.defers(BLOB, 4, 0, "stranger")
    assert not spread.defers(OTHER, 4, 0, "a")
    spread.left(BLOB, "a")
    assert not spread.defers(BLOB, 4, 0, "b")


def test_who_has_two_sessions_is_here_until_both_have_ended() -> None:
    spread = two()
    spread.joined(BLOB, "a")
    spread.left(BLOB, "a")
    assert spread.defers(BLOB, 4, 0, "b")
    spread.joined(BLOB, "c")
    spread.left(BLOB, "a")
    assert not spread.defers(BLOB, 4, 0, "c")


def test_what_was_not_sent_after_all_is_not_counted() -> None:
    spread = two()
    spread.not_given(BLOB, 0, "b")  # it was not b's
    spread.not_given(BLOB, 1, "a")
    spread.not_given(BLOB, 0, "stranger")
    spread.not_given(OTHER, 0, "a")
    assert spread.defers(BLOB, 4, 0, "b")
    spread.joined(BLOB, "c")
    spread.not_given(BLOB, 0, "a")
    assert not spread.defers(BLOB, 4, 0, "c")


def test_a_blob_that_is_cut_anew_begins_anew() -> None:
    spread = two()
    assert not spread.defers(BLOB, 8, 7, "b")
    assert not spread.defers(BLOB, 8, 0, "b")
    assert spread.defers(BLOB, 8, 7, "a")


def test_ends_that_nobody_began_change_nothing() -> None:
    spread = Spread()
    spread.left(BLOB, "a")
    spread.joined(BLOB, "a")
    spread.left(BLOB, "b")
    spread.left(BLOB, "a")
    assert not spread.defers(BLOB, 4, 0, "a")


def test_what_is_remembered_is_bounded() -> None:
    spread = two()
    for number in range(1, module.MAX_BLOBS + 5):
        spread.joined(Hash(number.to_bytes(32, "big")), "a")
    assert len(spread._blobs) == module.MAX_BLOBS
    assert not spread.defers(BLOB, 4, 0, "b")
    crowd = Spread()
    for number in range(module.MAX_DOWNLOADERS + 1):
        crowd.joined(BLOB, f"p{number}")
    last = f"p{module.MAX_DOWNLOADERS}"
    assert not crowd.defers(BLOB, 4, 0, "p0")
    assert not crowd.defers(BLOB, 4, 0, last)
    assert crowd.defers(BLOB, 4, 0, "p1")


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["join", "leave", "ask", "ask", "ask", "fail"]),
        st.sampled_from("abc"),
        st.integers(0, 5),
    ),
    max_size=120,
)


@given(STEPS)
def test_nobody_is_ever_refused_a_chunk_twice_and_alone_never(
    steps: list[tuple[str, str, int]],
) -> None:
    spread = Spread()
    here: dict[str, int] = {}
    refused: set[tuple[str, int]] = set()
    for what, peer, index in steps:
        if what == "join":
            spread.joined(BLOB, peer)
            here[peer] = here.get(peer, 0) + 1
        elif what == "leave" and here.get(peer):
            spread.left(BLOB, peer)
            here[peer] -= 1
            if not here[peer]:
                refused = {each for each in refused if each[0] != peer}
        elif what == "fail":
            spread.not_given(BLOB, index, peer)
        elif what == "ask" and spread.defers(BLOB, 6, index, peer):
            assert sum(count > 0 for count in here.values()) >= 2
            assert (peer, index) not in refused
            refused.add((peer, index))
    for blob in spread._blobs.values():
        given_to = [each.given.mask for each in blob.downloaders.values() if each.given]
        union = 0
        for mask in given_to:
            assert not union & mask
            union |= mask
        assert union == (blob.given.mask if blob.given else 0)
