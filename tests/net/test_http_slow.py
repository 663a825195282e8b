"""Servers that trickle: every read brings something, and nothing ever comes. On a virtual clock."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import httpx
import pytest
import trio
from http_support import CHUNK, DATA, SIZE, download, store_in

from peatnet.blobs import Hash, Store
from peatnet.errors import HttpSourceError
from peatnet.net.http_client import HttpClient, HttpSettings, Transient
from peatnet.net.http_loose import fetch_loose
from peatnet.net.http_source import HttpSource

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
    from pathlib import Path

    from trio.testing import MockClock

    Script = Callable[[httpx.Request], Coroutine[None, None, httpx.Response]]

URL = "http://example.org/model.gguf"
LIMITS = HttpSettings(trust_env=False)
# The server sends something just before each single read would be given up.
PAUSE = LIMITS.read_timeout - 1


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    yield from store_in(tmp_path)


@pytest.fixture
def answer_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[Script], None]:
    """Have a function of the test answer all requests."""

    def use(script: Script) -> None:
        transport = httpx.MockTransport(script)
        monkeypatch.setattr(httpx, "AsyncClient", partial(httpx.AsyncClient, transport=transport))

    return use


async def paced(data: bytes, size: int, pause: float) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        await trio.sleep(pause)
        yield data[start : start + size]


def part(request: httpx.Request, size: int, pause: float) -> httpx.Response:
    """The range that was asked for, so many bytes at a time."""
    first, last = map(int, request.headers["range"].removeprefix("bytes=").split("-"))
    headers = {"Content-Range": f"bytes {first}-{last}/{SIZE}"}
    body = paced(DATA[first : last + 1], size, pause)
    return httpx.Response(206, headers=headers, content=body)


async def trickle(request: httpx.Request) -> httpx.Response:
    return part(request, 1, PAUSE)


async def fetch_by_chunks(store: Store) -> None:
    job = download(store)
    job.add_source(HttpSource(URL, size=SIZE, chunk_size=CHUNK, settings=LIMITS))
    await job.run()


async def fetch_as_whole(store: Store) -> None:
    loose = store.start_loose(Hash(bytes(32)), SIZE)
    await fetch_loose(URL, loose, size=SIZE, settings=LIMITS)


FETCHES = pytest.mark.parametrize("fetch", [fetch_by_chunks, fetch_as_whole])
# Virtual seconds, where no thread is at work: the clock would jump to it meanwhile.
ENOUGH = 24 * 3600


@FETCHES
async def test_a_body_that_trickles_is_given_up(
    autojump_clock: MockClock,
    store: Store,
    answer_with: Callable[[Script], None],
    fetch: Callable[[Store], Awaitable[None]],
) -> None:
    answer_with(trickle)
    with pytest.raises(HttpSourceError, match=r"too slow.*after 4 tries"):
        await fetch(store)


@FETCHES
async def test_a_slow_body_is_not(
    autojump_clock: MockClock,
    store: Store,
    answer_with: Callable[[Script], None],
    fetch: Callable[[Store], Awaitable[None]],
) -> None:
    async def script(request: httpx.Request) -> httpx.Response:
        return part(request, 4096, 1.0)  # the lowest rate, shared by four connections

    answer_with(script)
    await fetch(store)


async def test_a_head_that_trickles_is_given_up(
    autojump_clock: MockClock, answer_with: Callable[[Script], None]
) -> None:
    async def script(_: httpx.Request) -> httpx.Response:
        await trio.sleep_forever()
        raise AssertionError

    answer_with(script)
    async with HttpClient(URL, connections=1, settings=LIMITS) as client:
        with trio.fail_after(ENOUGH), pytest.raises(Transient, match="in time"):
            async with client.get({}):
                pass


async def test_an_end_that_trickles_is_given_up(
    autojump_clock: MockClock, answer_with: Callable[[Script], None]
) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"x"
        while True:  # as a trailer does that never ends
            await trio.sleep(PAUSE)
            yield b""

    async def script(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=endless())

    answer_with(script)
    async with (
        HttpClient(URL, connections=1, settings=LIMITS) as client,
        client.get({}) as (response, where),
    ):
        body = client.body(response, where, 1)
        await body.read_into(memoryview(bytearray(1)))
        with trio.fail_after(ENOUGH), pytest.raises(Transient, match="too slow"):
            await body.expect_end()
        await body.aclose()
