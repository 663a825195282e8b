"""Files without a chunk table, over HTTP: what the first answer decides, resuming, and what is refused."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

import pytest
import trio
from scripted_http import Answer, Ask, ScriptedServer, part, whole

from peatnet.blobs import Database, Hash, LoosePartial, Store
from peatnet.errors import HttpSourceError, IntegrityError
from peatnet.net.http_client import HttpSettings
from peatnet.net.http_loose import fetch_loose

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIB = 1024 * 1024
DATA = random.Random(2).randbytes(2 * MIB + 777)
SIZE = len(DATA)
SHA256 = hashlib.sha256(DATA).hexdigest()
ETAG = '"one"'
QUICK = HttpSettings(
    connect_timeout=20, read_timeout=20, attempts=3, backoff=0.001, trust_env=False
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    database = Database.open(tmp_path / "peatnet.db")
    store = Store.open(tmp_path, database)
    yield store
    store.close()
    database.close()


@pytest.fixture
def loose(store: Store) -> Iterator[LoosePartial]:
    made = store.start_loose(Hash.parse(SHA256), SIZE)
    yield made
    made.close()


def served(ask: Ask, *, ranges: bool, data: bytes = DATA, etag: str = ETAG) -> Answer:
    fresh = ask.headers.get("if-range", etag) == etag
    if ranges and ask.range is not None and fresh:
        return part(ask, data, etag)
    return whole(data, headers={"ETag": etag})


async def fetch(url: str, loose: LoosePartial, seen: list[int] | None = None) -> None:
    seen = [] if seen is None else seen
    with trio.fail_after(60):
        await fetch_loose(url, loose, size=SIZE, progress=seen.append, settings=QUICK)


def assert_right(store: Store, loose: LoosePartial) -> None:
    info = store.adopt_loose(loose, expect_sha256=SHA256, expect_blob_hash=None)
    assert info.path.read_bytes() == DATA


async def test_one_stream(store: Store, loose: LoosePartial) -> None:
    seen: list[int] = []
    with ScriptedServer(lambda ask: served(ask, ranges=False)) as server:
        await fetch(server.url, loose, seen)
        (ask,) = server.asks  # the answer that told of no ranges was the one that was read
        assert ask.range == (0, SIZE - 1)
        assert "if-range" not in ask.headers
        assert server.sent == SIZE
        await fetch(server.url, loose)  # all is here
        assert len(server.asks) == 1
    assert seen == sorted(seen)
    assert seen[-1] == SIZE
    assert_right(store, loose)


@pytest.mark.parametrize("ranges", [True, False])
async def test_a_break_is_resumed(store: Store, loose: LoosePartial, *, ranges: bool) -> None:
    def script(ask: Ask) -> Answer:
        answer = served(ask, ranges=ranges)
        answer.send = MIB + 5 if ask.number == 0 else None
        return answer

    with ScriptedServer(script) as server:
        await fetch(server.url, loose)
        first, second = server.asks
        assert first.range == (0, SIZE - 1)
        assert second.range == (MIB, SIZE - 1)
        assert second.headers["if-range"] == ETAG
    assert_right(store, loose)


@pytest.mark.parametrize("etag", [True, False])
async def test_a_restart_resumes(store: Store, loose: LoosePartial, *, etag: bool) -> None:
    headers = {"ETag": ETAG} if etag else {}
    seen: list[int] = []

    def script(ask: Ask) -> Answer:
        if ask.number:
            return part(ask, DATA, headers=headers)
        return whole(DATA, headers=headers, send=MIB, stall=True)

    with ScriptedServer(script) as server:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch, server.url, loose, seen)
            while loose.received < MIB:  # noqa: ASYNC110 - it has no event
                await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
        loose.close()
        again = store.start_loose(Hash.parse(SHA256), SIZE)
        assert again.received == MIB
        await fetch(server.url, again)
        assert server.asks[-1].range == (MIB, SIZE - 1)
        assert server.asks[-1].headers.get("if-range") == (ETAG if etag else None)
    assert_right(store, again)


async def test_a_file_that_changed_is_fetched_anew(store: Store, loose: LoosePartial) -> None:
    old = bytes(SIZE)
    seen: list[int] = []

    def script(ask: Ask) -> Answer:
        if ask.number == 0:
            return whole(old, headers={"ETag": '"old"'}, send=MIB)
        return served(ask, ranges=True)

    with ScriptedServer(script) as server:
        await fetch(server.url, loose, seen)
    assert 0 in seen[1:]
    assert loose.note == ETAG
    assert_right(store, loose)


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        (lambda _: Answer(404), "HTTP 404"),
        (lambda _: whole(b"<html>", headers={"Content-Type": "text/html"}), "web page"),
        (lambda _: whole(DATA, headers={"Content-Encoding": "gzip"}), "gzip"),
        (lambda _: whole(DATA + b"x"), "declares"),
        (lambda _: whole(DATA + b"x", chunked=True), "more than"),
        (lambda _: whole(DATA[:-1], close=True), "cut off"),
        (lambda _: whole(DATA, send=10), "after 3 tries"),
        (lambda _: Answer(206, DATA, {"Content-Range": f"bytes 1-{SIZE}/{SIZE}"}), "asked for"),
        (lambda _: Answer(206, DATA, {"Content-Range": f"bytes 0-1/{SIZE + 1}"}), "not"),
        (lambda _: Answer(416), "shorter"),
    ],
)
async def test_refused(
    loose: LoosePartial, script: Callable[[Ask], Answer], complaint: str
) -> None:
    with ScriptedServer(script) as server, pytest.raises(HttpSourceError, match=complaint):
        await fetch(server.url, loose)
    assert not loose.complete


async def test_other_bytes_are_thrown_away(store: Store, loose: LoosePartial) -> None:
    with ScriptedServer(lambda ask: served(ask, ranges=True, data=bytes(SIZE))) as server:
        await fetch(server.url, loose)
    with pytest.raises(IntegrityError):
        store.adopt_loose(loose, expect_sha256=SHA256, expect_blob_hash=None)
    assert store.blobs() == []


async def test_another_size_than_the_partial(loose: LoosePartial) -> None:
    with pytest.raises(HttpSourceError, match="manifest says 5"):
        await fetch_loose("http://127.0.0.1:9/", loose, size=5)
