"""Servers whose answers are costly to take apart: a body in tiny pieces, 1xx answers without end. On real servers."""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from http_support import DATA, QUICK, fetch, refused, store_in
from scripted_http import EARLY, Answer, Ask, ScriptedServer, part, whole

from peatnet.blobs import Hash
from peatnet.errors import HttpSourceError
from peatnet.net.http_client import MANY_PIECES, SMALLEST_PIECE, HttpClient
from peatnet.net.http_heads import MAX_HEAD, READ_UNIT
from peatnet.net.http_loose import fetch_loose

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from peatnet.blobs import Store
    from peatnet.net.http_client import Body

CONNECTIONS = 4
# Too few to be refused, and so few bytes that one read brings most of them.
FEW = MANY_PIECES - 100


class Turns(trio.abc.Instrument):
    """Counts how often any task, and this one, had its turn; and has another task that is always ready for one."""

    def __init__(self) -> None:
        self.task = trio.lowlevel.current_task()
        self.mine = 0
        self.others = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.mine += 1

    async def run(self) -> None:
        while True:
            self.others += 1
            await trio.lowlevel.checkpoint()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    yield from store_in(tmp_path)


def in_pieces(size: int, body: bytes = DATA) -> ScriptedServer:
    return ScriptedServer(lambda ask: part(ask, body, chunked=True, piece=size))


@asynccontextmanager
async def byte_by_byte(data: bytes) -> AsyncIterator[tuple[Body, Turns]]:
    """The body of an answer that comes in pieces of one byte, and who has had a turn."""
    with ScriptedServer(lambda _: whole(data, chunked=True, piece=1)) as server:
        async with (
            trio.open_nursery() as nursery,
            HttpClient(server.url, connections=1, settings=QUICK) as client,
            client.get({}) as (response, where),
        ):
            turns = Turns()
            nursery.start_soon(turns.run)
            yield client.body(response, where, len(data)), turns
            nursery.cancel_scope.cancel()


async def test_tiny_pieces_of_a_body_leave_others_their_turns() -> None:
    data = DATA[:FEW]
    async with byte_by_byte(data) as (body, turns):
        view = memoryview(bytearray(len(data)))
        pieces: Counter[int] = Counter()

        def note() -> bool:
            pieces[turns.others] += 1
            return False

        assert await body.read_into(view, note)
        await body.expect_end()
        await body.aclose()
    assert view == data
    assert sum(pieces.values()) == len(data) - 1
    # trio shuffles each round of tasks: we may come last in one and first in the next.
    assert max(pieces.values()) <= 2 * 16


async def test_tiny_pieces_that_nobody_reads_leave_others_their_turns() -> None:
    data = DATA[:FEW]
    async with byte_by_byte(data) as (body, turns):
        await body.read_into(memoryview(bytearray(1)))
        before = turns.others
        await body.aclose()
        during = turns.others - before
    assert during >= FEW // 32


async def test_a_server_of_tiny_pieces_is_given_up_at_once(store: Store) -> None:
    with in_pieces(1) as server:
        error = await refused(store, server.url)
    assert isinstance(error, HttpSourceError)
    assert f"{MANY_PIECES} bytes in {MANY_PIECES} pieces" in error.message
    assert len(server.asks) <= CONNECTIONS


async def test_so_is_one_that_has_no_table(store: Store) -> None:
    loose = store.start_loose(Hash(bytes(32)), len(DATA))
    with in_pieces(1) as server, pytest.raises(HttpSourceError, match="pieces"):
        await fetch_loose(server.url, loose, size=len(DATA), settings=QUICK)
    assert len(server.asks) <= CONNECTIONS


async def test_small_pieces_are_good_enough(store: Store) -> None:
    data = DATA * 2  # in more than so many pieces

    def script(_: Ask) -> Answer:
        return whole(data, chunked=True, piece=SMALLEST_PIECE + 100)

    assert len(data) // (SMALLEST_PIECE + 100) > 2 * MANY_PIECES
    with ScriptedServer(script) as server:
        await fetch(store, server.url, data=data)


async def test_some_early_answers_are_nothing_strange(store: Store) -> None:
    with ScriptedServer(lambda ask: part(ask, DATA, early=20)) as server:
        await fetch(store, server.url)


async def test_early_answers_without_end_are_given_up_at_once(store: Store) -> None:
    with ScriptedServer(lambda ask: part(ask, DATA, early=MAX_HEAD // len(EARLY))) as server:
        error = await refused(store, server.url)
    assert isinstance(error, HttpSourceError)
    assert f"no head of an answer in {MAX_HEAD} bytes" in error.message
    assert len(server.asks) <= CONNECTIONS


async def test_early_answers_leave_others_their_turns() -> None:
    turns = Turns()
    trio.lowlevel.add_instrument(turns)
    early = 3000
    with ScriptedServer(lambda _: whole(b"x", early=early)) as server:
        async with (
            HttpClient(server.url, connections=1, settings=QUICK) as client,
            client.get({}) as (response, where),
        ):
            trio.lowlevel.remove_instrument(turns)
            body = client.body(response, where, 1)
            await body.read_into(memoryview(bytearray(1)))
            await body.aclose()
    assert turns.mine >= early * len(EARLY) // READ_UNIT
