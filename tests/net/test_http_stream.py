"""The HTTP source with a link whose requests come by hand, so that each moment can be chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from http_support import (
    CHUNK,
    DATA,
    ETAG,
    HandLink,
    store_in,
    without_ranges,
)
from scripted_http import Answer, Ask, ScriptedServer, part

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from peatnet.blobs import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    yield from store_in(tmp_path)


async def test_a_cancelled_request_is_not_read_to_its_end(store: Store) -> None:
    link = HandLink(store)
    link.requests = [5, 6, 7]
    looks = {6: 0, 7: 0}

    def cancelled(index: int) -> bool:
        if index in looks:
            looks[index] += 1
        return looks.get(index, 0) > 1  # after the request was sent

    link.is_cancelled = cancelled

    def script(ask: Ask) -> Answer:
        answer = part(ask, DATA, ETAG)
        if ask.number:
            answer.send, answer.stall = 1000, True  # the rest would never come
        return answer

    with ScriptedServer(script) as server:
        await link.drive(server.url)
        assert link.arrivals == [5]
        assert len(server.asks) == 3


async def test_a_request_cancelled_between_two_tries_is_dropped(store: Store) -> None:
    link = HandLink(store)
    link.requests = [5]
    with ScriptedServer(lambda ask: part(ask, DATA, send=0)) as server:
        link.is_cancelled = lambda _: bool(server.asks)
        await link.drive(server.url)
        assert len(server.asks) == 1
    assert link.arrivals == []


async def test_a_stream_offers_only_what_comes_soon_and_waits_to_be_asked(store: Store) -> None:
    link = HandLink(store)
    link.requests = [9, 2]  # 9 lapses when the server turns out to give no ranges
    with ScriptedServer(without_ranges) as server:
        await link.drive(server.url)
        assert len(server.asks) == 1
    # What lay before the chunk asked for was missing too, so it was kept.
    assert link.arrivals == [0, 1, 2]
    assert link.announced[1] == set(range(12))
    assert link.announced[-1] == set(range(3 + 4))


async def test_a_stream_skips_what_came_from_elsewhere_and_what_was_cancelled(store: Store) -> None:
    link = HandLink(store)
    link.requests = [0, 0]

    def on_arrival(index: int) -> None:
        if index == 0:
            for other in (1, 2, 3, 4, 5, 6, 7, 8):
                link.partial.write(other, DATA[other * CHUNK : (other + 1) * CHUNK])
            link.requests = [10, 9]
            link.is_cancelled = lambda index: index == 10

    link.on_arrival = on_arrival
    with ScriptedServer(without_ranges) as server:
        await link.drive(server.url)
    assert link.arrivals == [0, 9]


async def test_a_complete_stream_asks_for_nothing_more(store: Store) -> None:
    link = HandLink(store)
    link.requests = [0, *range(12)]
    with ScriptedServer(without_ranges) as server:
        await link.drive(server.url)
        assert len(server.asks) == 1
    assert link.arrivals == list(range(12))


async def test_a_stream_for_what_is_all_here_is_not_read(store: Store) -> None:
    link = HandLink(store)
    for index in range(12):
        link.partial.write(index, DATA[index * CHUNK : (index + 1) * CHUNK])
    link.requests = [0]
    with ScriptedServer(without_ranges) as server:
        await link.drive(server.url)
    assert link.arrivals == []
