"""The HTTP source under the real engine, against real servers on loopback."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import trio
from blake3 import blake3
from http_support import (
    CHUNK,
    DATA,
    ETAG,
    IMPATIENT,
    QUICK,
    SIZE,
    download,
    fetch,
    refused,
    store_in,
    table_of,
    with_ranges,
    without_ranges,
)
from scripted_http import Answer, Ask, ScriptedServer, part, whole

from peatnet.blobs import Hash, Store
from peatnet.errors import HttpSourceError, IntegrityError, UsageError
from peatnet.net.http_source import HttpSource
from peatnet.swarm import SwarmSettings
from peatnet.transfer import Download, DownloadSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    yield from store_in(tmp_path)


# What works.


async def test_ranges_in_parallel(store: Store) -> None:
    with ScriptedServer(with_ranges) as server:
        job = await fetch(store, server.url)
    assert len(server.asks) == 12
    assert {ask.range for ask in server.asks} == {
        (start, min(start + CHUNK, SIZE) - 1) for start in range(0, SIZE, CHUNK)
    }
    assert all(ask.headers["accept-encoding"] == "identity" for ask in server.asks)
    assert "if-range" not in server.asks[0].headers
    assert all(ask.headers["if-range"] == ETAG for ask in server.asks[1:])
    assert server.connections <= 4
    assert server.sent == SIZE
    host = server.url.split("/")[2]
    assert job.progress.bytes_by_source == {f"http:{host}": SIZE}


async def test_no_ranges_no_byte_twice(store: Store) -> None:
    with ScriptedServer(without_ranges) as server:
        await fetch(store, server.url)
    assert len(server.asks) == 1
    assert server.sent == SIZE


@pytest.mark.parametrize("how", ["chunked", "close"])
async def test_a_body_of_no_declared_length(store: Store, how: str) -> None:
    with ScriptedServer(
        lambda _: whole(DATA, chunked=how == "chunked", close=how == "close")
    ) as server:
        await fetch(store, server.url)
    assert len(server.asks) == 1


async def test_a_blob_of_one_chunk(store: Store) -> None:
    data = b"small"
    with ScriptedServer(lambda ask: part(ask, data)) as server:
        await fetch(store, server.url, data=data)
    assert server.asks[0].headers["range"] == "bytes=0-4"


@pytest.mark.parametrize("script", [with_ranges, without_ranges])
async def test_nothing_is_asked_for_twice_after_a_restart(
    store: Store, script: Callable[[Ask], Answer]
) -> None:
    first = download(store)
    with ScriptedServer(script) as server:
        source = HttpSource(server.url, size=SIZE, chunk_size=CHUNK, connections=1, settings=QUICK)
        first.add_source(source)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.run)
            while first.progress.verified_bytes < 4 * CHUNK:
                await first.changed()
            nursery.cancel_scope.cancel()
    had = first.progress.verified_bytes
    with ScriptedServer(script) as server:
        second = await fetch(store, server.url)
    assert second.progress.recovered_bytes == had
    assert sum(second.progress.bytes_by_source.values()) == SIZE - had
    assert server.sent == (SIZE - had if script is with_ranges else SIZE)


async def test_a_stream_with_a_long_way_to_the_first_missing_chunk(store: Store) -> None:
    table = table_of(DATA)
    partial = store.start_partial(table, Hash(blake3(DATA).digest()))
    for index in range(10):
        partial.write(index, DATA[index * CHUNK : (index + 1) * CHUNK])
    partial.close()
    with ScriptedServer(without_ranges) as server:
        job = await fetch(store, server.url)
    assert sum(job.progress.bytes_by_source.values()) == SIZE - 10 * CHUNK
    assert len(server.asks) == 1


# What may go wrong and come right again.


@pytest.mark.parametrize("etags", ["other", "none", "weak", "date"])
async def test_the_validator_changes_midway(store: Store, etags: str) -> None:
    names = {
        "other": {"ETag": '"two"'},
        "none": {},
        "weak": {"ETag": 'W/"two"'},
        "date": {"Last-Modified": "Mon, 23 Nov 2026 13:00:00 GMT"},
    }

    def script(ask: Ask) -> Answer:
        if ask.number < 4:
            return part(ask, DATA, ETAG)
        now = names[etags]
        if ask.headers.get("if-range", "") not in ("", *now.values()):
            return whole(DATA)
        return part(ask, DATA, headers=now)

    with ScriptedServer(script) as server:
        await fetch(store, server.url, connections=1)
    last = server.asks[-1].headers.get("if-range")
    assert last == {"other": '"two"', "date": names["date"].get("Last-Modified")}.get(etags)


async def test_a_server_that_takes_back_no_validator(store: Store) -> None:
    def script(ask: Ask) -> Answer:
        return whole(DATA) if "if-range" in ask.headers else part(ask, DATA, ETAG)

    with ScriptedServer(script) as server:
        await fetch(store, server.url, connections=1)
    assert len(server.asks) == 12 + 3


@pytest.mark.parametrize("cut", [0, 1, CHUNK - 1])
async def test_ranges_that_break_off_are_fetched_again(store: Store, cut: int) -> None:
    def script(ask: Ask) -> Answer:
        answer = part(ask, DATA, ETAG)
        if ask.number in (0, 3, 5):
            answer.send = min(cut, len(answer.body) - 1)
        return answer

    with ScriptedServer(script) as server:
        await fetch(store, server.url)
    assert len(server.asks) == 15


async def test_a_stream_that_breaks_off_starts_again(store: Store) -> None:
    # Each reading gets a little further, so there is progress and no end of patience.
    def script(ask: Ask) -> Answer:
        return whole(DATA, send=min((2 * ask.number + 1) * CHUNK + 5, SIZE))

    with ScriptedServer(script) as server:
        job = await fetch(store, server.url)
    assert len(server.asks) == 7
    assert sum(job.progress.bytes_by_source.values()) == SIZE


@pytest.mark.parametrize("ranges", [True, False])
async def test_a_stall_is_cut_and_tried_again(store: Store, *, ranges: bool) -> None:
    def script(ask: Ask) -> Answer:
        stall = 3 * CHUNK // 2 if not ranges else 100
        cut = stall if ask.number == 0 else None
        return (
            part(ask, DATA, ETAG, send=cut, stall=True)
            if ranges
            else whole(DATA, send=cut, stall=True)
        )

    with ScriptedServer(script) as server:
        await fetch(store, server.url, settings=IMPATIENT)


async def test_busy_servers_are_tried_again(store: Store) -> None:
    def script(ask: Ask) -> Answer:
        status = {0: 503, 1: 429, 4: 500}.get(ask.number)
        if status:
            return Answer(status, b"busy", {"Retry-After": "0"})
        return part(ask, DATA, ETAG)

    with ScriptedServer(script) as server:
        await fetch(store, server.url)


# What is refused.


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        (lambda _: Answer(404, b"no"), "HTTP 404"),
        (lambda _: Answer(403, b"no"), "HTTP 403"),
        (lambda _: Answer(500, b"no"), "HTTP 500"),
        (lambda _: Answer(204), "HTTP 204"),
        (
            lambda _: whole(b"<html>", headers={"Content-Type": "text/html; charset=utf-8"}),
            "web page",
        ),
        (lambda a: part(a, DATA, headers={"Content-Type": "Text/HTML"}), "web page"),
        (lambda _: whole(DATA, headers={"Content-Encoding": "gzip"}), "'gzip'"),
        (lambda a: part(a, DATA, headers={"Content-Encoding": "identity, br"}), "'br'"),
        (lambda _: whole(DATA + b"x"), f"declares {SIZE + 1} bytes"),
        (lambda _: whole(DATA[:-1]), f"declares {SIZE - 1} bytes"),
        (lambda _: whole(DATA + b"x", chunked=True), "more than"),
        (lambda _: whole(DATA + b"x", close=True), "more than"),
        (lambda _: whole(DATA[:-1], chunked=True), "cut off"),
        (lambda _: whole(DATA[:-1], close=True), "cut off"),
        (lambda _: whole(DATA, send=SIZE - 1), "after 3 tries"),
        (lambda _: whole(DATA, send=0), "after 3 tries"),
        (lambda a: part(a, DATA + b"x"), f"has {SIZE + 1} bytes"),
        (lambda a: part(a, DATA, headers={"Content-Range": "bytes 0-9/*"}), "answered with 0-9"),
        (lambda a: part(a, DATA, headers={"Content-Range": "garbage"}), "'garbage'"),
        (
            lambda a: part(a, DATA, headers={"Content-Range": f"bytes {'9' * 30}-1/2"}),
            "Content-Range",
        ),
        (lambda a: part(a, DATA, headers={"Content-Length": "7"}, send=7), "declares 7 bytes"),
        (lambda a: part(a, DATA, chunked=True, send=9), "after 3 tries"),
        (lambda _: Answer(416, b"", {"Content-Range": "bytes */5"}), "has 5 bytes"),
        (lambda _: Answer(416), "is shorter"),
        (lambda _: Answer(206, DATA), "Content-Range ''"),
    ],
)
async def test_refused(store: Store, script: Callable[[Ask], Answer], complaint: str) -> None:
    with ScriptedServer(script) as server:
        error = await refused(store, server.url)
        assert isinstance(error, HttpSourceError)
        assert complaint in error.message
        assert "127.0.0.1" in error.message


async def test_a_206_body_that_runs_over(store: Store) -> None:
    def script(ask: Ask) -> Answer:
        answer = part(ask, DATA, chunked=True)
        answer.body += b"x"
        return answer

    with ScriptedServer(script) as server:
        error = await refused(store, server.url)
    assert "more than" in error.message


async def test_garbage_behind_a_body_that_runs_over(store: Store) -> None:
    def script(ask: Ask) -> Answer:
        answer = part(ask, DATA, chunked=True, end=b"ZZZZ\r\n")
        answer.body += b"x"
        return answer

    with ScriptedServer(script) as server:
        error = await refused(store, server.url)
    assert "more than" in error.message


async def test_a_validator_that_no_header_can_have(store: Store) -> None:
    with ScriptedServer(lambda ask: part(ask, DATA, '"caf\xe9"')) as server:
        await fetch(store, server.url)
    assert not any("if-range" in ask.headers for ask in server.asks)


@pytest.mark.parametrize("ranges", [True, False])
async def test_another_file_of_the_same_size(store: Store, *, ranges: bool) -> None:
    other = DATA[:-1] + bytes([DATA[-1] ^ 1])
    with ScriptedServer(lambda ask: part(ask, other) if ranges else whole(other)) as server:
        error = await refused(store, server.url)
    assert isinstance(error, IntegrityError)


async def test_ranges_that_stop_midway(store: Store) -> None:
    with ScriptedServer(lambda ask: part(ask, DATA) if ask.number < 4 else whole(DATA)) as server:
        error = await refused(store, server.url)
    assert "stopped giving ranges" in error.message


async def test_a_stream_that_turns_into_a_range(store: Store) -> None:
    def script(ask: Ask) -> Answer:
        if ask.number == 0:
            return whole(DATA, send=CHUNK)
        return Answer(206, DATA, {"Content-Range": f"bytes 0-{SIZE - 1}/{SIZE}"})

    with ScriptedServer(script) as server:
        error = await refused(store, server.url)
    assert "HTTP 206" in error.message


async def test_nobody_listens(store: Store) -> None:
    with ScriptedServer(with_ranges) as server:
        url = server.url
    error = await refused(store, url)
    assert isinstance(error, HttpSourceError)
    assert "after 3 tries" in error.message


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x/y",
        "file:///etc/passwd",
        "http://",
        "model.gguf",
        "http://x:y:z/",
        "http://xn--a/",
        "http://x/" + "y" * 5000,
    ],
)
def test_urls_that_cannot_be_used(url: str) -> None:
    with pytest.raises(HttpSourceError):
        HttpSource(url, size=1, chunk_size=CHUNK)


def test_numbers_that_cannot_be_used() -> None:
    for size, chunk_size, connections in ((1, CHUNK, 0), (1, CHUNK, 17), (0, CHUNK, 1), (1, 0, 1)):
        with pytest.raises(UsageError):
            HttpSource("http://x/y", size=size, chunk_size=chunk_size, connections=connections)


def test_secrets_stay_out_of_names() -> None:
    source = HttpSource("https://me:secret@example.org:8443/x?token=y", size=1, chunk_size=CHUNK)
    assert source.name == "http:example.org:8443"


async def test_messages_name_no_secrets(store: Store) -> None:
    with ScriptedServer(lambda _: Answer(404)) as server:
        url = server.url.replace("//", "//me:secret@") + "?token=hidden"
        error = await refused(store, url)
    assert "secret" not in str(error)
    assert "hidden" not in str(error)


async def test_a_source_for_another_blob(store: Store) -> None:
    job = download(store)
    job.add_source(HttpSource("http://127.0.0.1:9/", size=SIZE + 1, chunk_size=CHUNK))
    with pytest.raises(UsageError, match="another size"):
        await job.run()


async def test_it_has_no_table() -> None:
    source = HttpSource("http://127.0.0.1:9/", size=SIZE, chunk_size=CHUNK)
    assert await source.table(Hash(bytes(32))) is None


async def test_a_server_is_left_alone_while_peers_deliver(store: Store) -> None:
    with ScriptedServer(with_ranges) as server:
        job = Download(
            store,
            Hash(blake3(DATA).digest()),
            table_of(DATA),
            sha256=None,
            rng=random.Random(0),
            settings=DownloadSettings(swarm=SwarmSettings(fallback_after=1000)),
        )
        job.add_source(HttpSource(server.url, size=SIZE, chunk_size=CHUNK, settings=QUICK))
        with trio.move_on_after(0.1):
            await job.run()
    assert server.connections == 0


@pytest.mark.parametrize("script", [with_ranges, without_ranges])
async def test_cancelled_anywhere_no_connection_stays(
    store: Store, script: Callable[[Ask], Answer]
) -> None:
    class CancelAtStep(trio.abc.Instrument):
        def __init__(self, step: int) -> None:
            self.left = step
            self.scope = trio.CancelScope()

        def after_task_step(self, task: trio.lowlevel.Task) -> None:
            self.left -= 1
            if self.left == 0:
                self.scope.cancel()

    with ScriptedServer(script) as server:
        for step in range(1, 2000, 7):
            cut = CancelAtStep(step)
            job = download(store)
            job.add_source(HttpSource(server.url, size=SIZE, chunk_size=CHUNK, settings=QUICK))
            trio.lowlevel.add_instrument(cut)
            with cut.scope:
                await job.run()
            trio.lowlevel.remove_instrument(cut)
            if store.info(job.hash) is not None:
                break
            if job.progress.verified_bytes > 8 * CHUNK:
                store.discard(job.hash)
        with trio.fail_after(20):
            while server.open_now:  # noqa: ASYNC110 - the server's threads notice in their own time
                await trio.sleep(0.001)
    assert store.info(job.hash) is not None


async def test_a_server_that_is_not_there_is_told_in_the_systems_words(store: Store) -> None:
    with ScriptedServer(with_ranges) as server:
        url = server.url  # whose port is free again when this ends
    error = await refused(store, url)
    assert "Connection refused" in error.message
    assert "sub-exception" not in error.message
