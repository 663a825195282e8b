"""Files without a chunk table, as ranges side by side: order, breaks, fewer connections, files that change."""

from __future__ import annotations

import hashlib
import random
import threading
from typing import TYPE_CHECKING

import pytest
import trio
from http_support import QUICK, store_in
from scripted_http import Answer, Ask, ScriptedServer, part, whole

from peatnet.blobs import Hash, LoosePartial, Store
from peatnet.errors import HttpSourceError
from peatnet.net.http_loose import fetch_loose

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

UNIT = 256 * 1024  # what is received at once
SEGMENT = 2 * UNIT
DATA = random.Random(3).randbytes(8 * SEGMENT + 777)
OLD = bytes(len(DATA))
SIZE = len(DATA)
SEGMENTS = 9
SHA256 = hashlib.sha256(DATA).hexdigest()
ETAG = '"one"'


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    yield from store_in(tmp_path)


@pytest.fixture
def loose(store: Store) -> Iterator[LoosePartial]:
    made = store.start_loose(Hash.parse(SHA256), SIZE)
    yield made
    made.close()


async def fetch(url: str, loose: LoosePartial, seen: list[int] | None = None) -> None:
    seen = [] if seen is None else seen
    with trio.fail_after(60):
        await fetch_loose(
            url,
            loose,
            size=SIZE,
            progress=seen.append,
            segment=SEGMENT,
            settings=QUICK,
        )


def assert_right(store: Store, loose: LoosePartial) -> None:
    info = store.adopt_loose(loose, expect_sha256=SHA256, expect_blob_hash=None)
    assert info.path.read_bytes() == DATA


def conditional(ask: Ask, data: bytes = DATA, etag: str = ETAG) -> Answer:
    """What a server that knows Range and If-Range says."""
    if ask.range is None or ask.headers.get("if-range", etag) != etag:
        return whole(data, headers={"ETag": etag})
    return part(ask, data, etag)


async def test_four_at_once_and_no_byte_twice(store: Store, loose: LoosePartial) -> None:
    # The first request is alone; then nobody is answered before four have asked. Twice.
    together = threading.Barrier(4)

    def script(ask: Ask) -> Answer:
        if ask.number:
            together.wait(30)
        return conditional(ask)

    seen: list[int] = []
    with ScriptedServer(script) as server:
        await fetch(server.url, loose, seen)
        assert server.most_open == 4
        assert server.sent == SIZE
        first, *others = server.asks
    assert first.range == (0, SEGMENT - 1)
    assert "if-range" not in first.headers
    assert {ask.headers["if-range"] for ask in others} == {ETAG}
    assert sorted(ask.range for ask in others if ask.range) == [
        (start, min(start + SEGMENT, SIZE) - 1) for start in range(SEGMENT, SIZE, SEGMENT)
    ]
    assert seen == sorted(seen)
    assert seen[-1] == SIZE
    assert loose.note == ETAG
    assert_right(store, loose)


async def test_a_server_without_validators(store: Store, loose: LoosePartial) -> None:
    with ScriptedServer(lambda ask: part(ask, DATA)) as server:
        await fetch(server.url, loose)
        assert len(server.asks) == SEGMENTS
        assert not any("if-range" in ask.headers for ask in server.asks)
    assert loose.note == ""
    assert_right(store, loose)


async def test_segments_that_come_backwards(store: Store, loose: LoosePartial) -> None:
    # Each of the four that are under way is answered only after the one behind it.
    asked = {start: threading.Event() for start in range(0, SIZE, SEGMENT)}

    def script(ask: Ask) -> Answer:
        assert ask.range is not None
        start = ask.range[0]
        asked[start].set()
        if start and (start // SEGMENT) % 4:
            asked[start + SEGMENT].wait(30)
        return conditional(ask)

    with ScriptedServer(script) as server:
        await fetch(server.url, loose)
        assert server.sent == SIZE
    assert_right(store, loose)


async def test_a_break_goes_on_in_the_middle_of_its_segment(
    store: Store, loose: LoosePartial
) -> None:
    def script(ask: Ask) -> Answer:
        answer = conditional(ask)
        answer.send = UNIT + 5 if ask.number in (0, 2) else None
        return answer

    with ScriptedServer(script) as server:
        await fetch(server.url, loose)
        assert server.sent == SIZE + 2 * 5
        broken = [server.asks[number].range for number in (0, 2)]
        resumed = {ask.range: ask.headers.get("if-range") for ask in server.asks}
    for ends in broken:
        assert ends is not None
        assert resumed[ends[0] + UNIT, ends[1]] == ETAG
    assert_right(store, loose)


async def test_a_restart_goes_on_where_there_was_no_gap(store: Store, loose: LoosePartial) -> None:
    def script(ask: Ask) -> Answer:
        answer = conditional(ask)
        if ask.range and ask.range[0] == SEGMENT and ask.range[1] < 2 * SEGMENT:
            answer.send, answer.stall = UNIT, True
        return answer

    seen = [0]
    with ScriptedServer(script) as server:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch, server.url, loose, seen)
            # Six segments may be under way, and none beyond them.
            while seen[-1] < 7 * SEGMENT - UNIT:  # noqa: ASYNC110 - it has no event
                await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
        assert loose.received == SEGMENT + UNIT
        assert max(ask.range[1] for ask in server.asks if ask.range) == 7 * SEGMENT - 1
        server.script = conditional
        loose.close()
        again = store.start_loose(Hash.parse(SHA256), SIZE)
        before = len(server.asks)
        await fetch(server.url, again)
        assert server.asks[before].range == (SEGMENT + UNIT, 2 * SEGMENT + UNIT - 1)
        assert server.asks[before].headers["if-range"] == ETAG
    assert_right(store, again)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("refusals", [1, 3, 5])
async def test_a_server_that_refuses_is_asked_by_fewer(
    store: Store, loose: LoosePartial, status: int, refusals: int
) -> None:
    # Three refusals leave one worker; what it is refused after that, it asks for again.
    def script(ask: Ask) -> Answer:
        return Answer(status) if 1 <= ask.number <= refusals else conditional(ask)

    with ScriptedServer(script) as server:
        await fetch(server.url, loose)
        assert server.sent == SIZE
        assert len(server.asks) == SEGMENTS + refusals
    assert_right(store, loose)


async def test_a_server_that_refuses_everything(loose: LoosePartial) -> None:
    with (
        ScriptedServer(lambda ask: Answer(503) if ask.number else conditional(ask)) as server,
        pytest.raises(HttpSourceError, match=r"503.*after 3 tries"),
    ):
        await fetch(server.url, loose)
    assert len(server.asks) == 1 + 3 + 3  # three workers leave, the last one tries three times
    assert loose.received == SEGMENT


@pytest.mark.parametrize("failures", [3, 100])
async def test_a_range_that_fails_again_and_again(
    store: Store, loose: LoosePartial, failures: int
) -> None:
    # Three tries for each of the four workers.
    tries = 0

    def script(ask: Ask) -> Answer:
        nonlocal tries
        if ask.range and ask.range[0] == 4 * SEGMENT:
            tries += 1
            if tries <= failures:
                return Answer(500)
        return conditional(ask)

    with ScriptedServer(script) as server:
        if failures == 100:
            with pytest.raises(HttpSourceError, match="HTTP 500"):
                await fetch(server.url, loose)
            assert loose.received == 4 * SEGMENT
            assert tries <= 12
        else:
            await fetch(server.url, loose)
            assert server.sent == SIZE
            assert_right(store, loose)


def ignores_conditions(ask: Ask) -> Answer:
    """A server that gives ranges of what is there now, whatever If-Range says; it changes after 4 requests."""
    if ask.number < 4:
        return part(ask, OLD, '"old"')
    return part(ask, DATA, ETAG)


def notices(ask: Ask) -> Answer:
    """A server that knows If-Range; its file changes after 4 requests."""
    return conditional(ask, OLD, '"old"') if ask.number < 4 else conditional(ask)


@pytest.mark.parametrize("script", [ignores_conditions, notices])
async def test_a_file_that_changes_midway_is_fetched_anew(
    store: Store, loose: LoosePartial, script: Callable[[Ask], Answer]
) -> None:
    seen: list[int] = []
    with ScriptedServer(script) as server:
        await fetch(server.url, loose, seen)
        anew = [ask for ask in server.asks if ask.range == (0, SEGMENT - 1)]
    assert len(anew) == 2
    assert all("if-range" not in ask.headers for ask in anew)
    assert seen.count(0) == 1
    assert loose.note == ETAG
    assert_right(store, loose)


async def test_a_server_that_never_takes_its_validator_back(
    store: Store, loose: LoosePartial
) -> None:
    def script(ask: Ask) -> Answer:
        if ask.range and "if-range" not in ask.headers:
            return part(ask, DATA, ETAG)
        return whole(DATA, headers={"ETag": ETAG})

    with ScriptedServer(script) as server:
        await fetch(server.url, loose)
        assert [ask.number for ask in server.asks if not ask.range] == [len(server.asks) - 1]
    assert_right(store, loose)


async def test_a_file_that_never_stands_still(loose: LoosePartial) -> None:
    def script(ask: Ask) -> Answer:
        etag = f'"{ask.number}"'
        if ask.range:
            return part(ask, DATA, etag)
        return whole(DATA, headers={"ETag": etag}, send=SEGMENT)

    with (
        ScriptedServer(script) as server,
        pytest.raises(HttpSourceError, match="changed 5 times"),
    ):
        await fetch(server.url, loose)


async def test_whole_answers_to_whole_requests_only(loose: LoosePartial) -> None:
    def script(ask: Ask) -> Answer:
        if ask.range:
            return part(ask, DATA, f'"{ask.number}"')
        return Answer(206, DATA, {"Content-Range": f"bytes 0-{SIZE - 1}/{SIZE}"})

    with (
        ScriptedServer(script) as server,
        pytest.raises(HttpSourceError, match="HTTP 206 to a request for the whole"),
    ):
        await fetch(server.url, loose)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (lambda _: whole(DATA + b"x"), "declares"),
        (lambda _: Answer(404), "HTTP 404"),
        (lambda _: Answer(416, headers={"Content-Range": "bytes */5"}), "has 5 bytes"),
        (lambda ask: part(ask, DATA + b"x"), "not"),
        (lambda ask: part(ask, DATA, headers={"Content-Range": f"bytes 0-1/{SIZE}"}), "asked for"),
        (lambda _: whole(b"<html>", headers={"Content-Type": "text/html"}), "web page"),
    ],
)
async def test_refused_midway(
    loose: LoosePartial, answer: Callable[[Ask], Answer], complaint: str
) -> None:
    def script(ask: Ask) -> Answer:
        return conditional(ask) if ask.number < 3 else answer(ask)

    with ScriptedServer(script) as server, pytest.raises(HttpSourceError, match=complaint):
        await fetch(server.url, loose)
    assert not loose.complete


async def test_a_range_that_is_longer_than_it_says(loose: LoosePartial) -> None:
    def script(ask: Ask) -> Answer:
        answer = conditional(ask)
        if ask.number == 3:
            answer.body, answer.chunked = answer.body + b"x", True
        return answer

    with ScriptedServer(script) as server, pytest.raises(HttpSourceError, match="more than"):
        await fetch(server.url, loose)
    assert not loose.complete


async def test_garbage_behind_a_range_that_is_longer_than_it_says(loose: LoosePartial) -> None:
    def script(ask: Ask) -> Answer:
        answer = conditional(ask)
        if ask.number == 3:
            answer.body, answer.chunked, answer.end = answer.body + b"x", True, b"ZZZZ\r\n"
        return answer

    with ScriptedServer(script) as server, pytest.raises(HttpSourceError, match="more than"):
        await fetch(server.url, loose)
    assert not loose.complete


async def test_a_validator_that_no_header_can_have(store: Store, loose: LoosePartial) -> None:
    with ScriptedServer(lambda ask: part(ask, DATA, '"caf\xe9"')) as server:
        await fetch(server.url, loose)
    assert not any("if-range" in ask.headers for ask in server.asks)
    assert_right(store, loose)


async def test_a_note_that_no_header_can_have(store: Store, loose: LoosePartial) -> None:
    loose.write_at(0, DATA[:UNIT])
    loose.note = '"caf\xe9"'
    with ScriptedServer(lambda ask: part(ask, DATA)) as server:
        await fetch(server.url, loose)
    assert server.asks[0].range == (UNIT, UNIT + SEGMENT - 1)
    assert_right(store, loose)
