"""Which way a peer's chunks come: lanes where they can be had, one libp2p stream where not, and back again."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from peatnet.concurrency import bare_errors
from peatnet.errors import LocalProtocolError
from peatnet.log import get_logger
from peatnet.net.lanes.client import LaneUnavailable
from peatnet.net.lanes.session import LaneSession

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Buffer

    from peatnet.blobs import ChunkTable, Hash
    from peatnet.net.lanes.client import LaneClient
    from peatnet.net.lanes.sockets import LaneSocket
    from peatnet.transfer import SourceLink

# While a stream serves, lanes are tried again this often, in seconds.
TRY_AGAIN = 30.0
# A stream begins to serve when a lane that was offered has no connection after so many seconds: a firewall that swallows
# what it forbids makes us wait longer for its answer. A peer that is slow to offer one, or to shake hands, would be no
# faster with a stream.
HEAD_START = 0.5
# How long what was asked for on the stream is waited for when a lane has been found.
HAND_OVER = 10.0

log = get_logger(__name__)

RunStream = Callable[["SourceLink"], Awaitable[None]]


async def carry(
    link: SourceLink,
    client: LaneClient,
    run_stream: RunStream,
) -> None:
    """Deliver a peer's chunks until cancelled: over lanes, or over a stream while no lane can be had.

    What was asked for on one way and has not come when it ends is asked for on the next one; the download notices
    nothing.

    Args:
        link: the download's.
        client: opens lanes to the peer.
        run_stream: delivers over one stream until that ends, with NoSource.

    Raises:
        NoSource: the peer is gone, is busy, or has the blob cut into other chunks.
        RemoteProtocolError: it broke the protocol.
        DiskFull, StorageError: as raised by ``link.write``.
    """
    relay = Relay(link)
    said = ""
    useless = ""  # why lanes are not worth trying just now

    def say(way: str, **why: str) -> None:
        nonlocal said
        if way != said:
            log.info("chunks come", over=way, peer=client.peer_id, **why)
            said = way

    while True:
        lane = await _find_lane(relay, client, run_stream, useless, say)
        say("lanes")
        session = LaneSession(relay, client)
        await session.run(lane)
        relay.give_back()
        useless = "" if session.delivered else "the last lane delivered nothing"


async def _find_lane(
    relay: Relay, client: LaneClient, run_stream: RunStream, useless: str, say: Callable[..., None]
) -> LaneSocket:
    """A lane. If there is none soon, a stream serves until there is one, and the stream owes nothing.

    Raises:
        As ``carry``: the stream has ended.
    """
    search = _Search(client, useless)
    try:
        with bare_errors():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(search.run)
                await search.offered.wait()
                with trio.move_on_after(max(HEAD_START, 2 * client.round_trip())):
                    await search.reached.wait()
                if search.reached.is_set():
                    await search.first_try.wait()  # its time is limited
                if search.lane is None:
                    say("stream", reason=search.reason or "no lane yet")
                    nursery.start_soon(run_stream, relay)
                    await search.found.wait()
                    with trio.move_on_after(HAND_OVER):
                        await relay.drain()
                nursery.cancel_scope.cancel()
    except BaseException:
        if search.lane is not None:
            search.lane.close()
        raise
    relay.give_back()
    if search.lane is None:
        raise LocalProtocolError(f"{client.peer_id}: the search for a lane ended without one")
    return search.lane


class _Search:
    """Tries to open a lane, again and again until it has one."""

    def __init__(self, client: LaneClient, useless: str) -> None:
        self.lane: LaneSocket | None = None
        self.reason = useless
        self.found = trio.Event()
        # A lane is offered, and the peer's port reached, or known not to be; within the time that asking may take.
        self.offered = trio.Event()
        self.reached = trio.Event()
        self.first_try = trio.Event()  # it is over
        self._client = client

    async def run(self) -> None:
        if self.reason:
            self._first_try_is_over()
            await trio.sleep(TRY_AGAIN)
        while True:
            try:
                self.lane = await self._client.open(self.offered.set, self.reached.set)
            except LaneUnavailable as exc:
                self.reason = str(exc)
                log.debug("no lane", peer=self._client.peer_id, reason=self.reason)
            else:
                self.found.set()
                return
            finally:
                self._first_try_is_over()
            await trio.sleep(TRY_AGAIN)

    def _first_try_is_over(self) -> None:
        self.first_try.set()
        self.reached.set()
        self.offered.set()


class Relay:
    """A :class:`peatnet.transfer.SourceLink` that outlives the ways it is served by.

    It passes everything on to the download's own link, and remembers what was taken and not reported on. When one
    way has ended, ``give_back`` makes that the first that the next one is asked for.
    """

    def __init__(self, link: SourceLink) -> None:
        self._link = link
        self._taken: set[int] = set()
        self._back: deque[int] = deque()
        self._draining = False
        self._reported = trio.Event()

    def give_back(self) -> None:
        """Ask again for what was taken and not reported on; when nobody uses this any more, before the next one."""
        self._back.extend(index for index in sorted(self._taken) if not self.cancelled(index))
        self._taken.clear()
        self._draining = False

    async def drain(self) -> None:
        """Give out no more requests, and wait until all that are out have been reported on."""
        self._draining = True
        while any(not self.cancelled(index) for index in self._taken):
            await self._reported.wait()
            self._reported = trio.Event()

    @property
    def hash(self) -> Hash:
        """See SourceLink."""
        return self._link.hash

    @property
    def table(self) -> ChunkTable:
        """See SourceLink."""
        return self._link.table

    @property
    def priority(self) -> int:
        """See SourceLink."""
        return self._link.priority

    def line(self, round_trip: float, lanes: int = 1) -> None:
        """See SourceLink."""
        self._link.line(round_trip, lanes)

    def has(self, bitmap: bytes | None) -> None:
        """See SourceLink."""
        self._link.has(bitmap)

    def gained(self, indices: Iterable[int]) -> None:
        """See SourceLink."""
        self._link.gained(indices)

    def listen(self, requested: Callable[[], None] | None) -> None:
        """See SourceLink."""
        self._link.listen(requested)

    async def next_request(self) -> int:
        """See SourceLink."""
        if self._draining:
            await trio.sleep_forever()
        if (index := self.poll_request()) is not None:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            index = await self._link.next_request()
            self._taken.add(index)
        return index

    def poll_request(self) -> int | None:
        """See SourceLink."""
        if self._draining:
            return None
        index = self._back.popleft() if self._back else self._link.poll_request()
        if index is not None:
            self._taken.add(index)
        return index

    def cancelled(self, index: int) -> bool:
        """See SourceLink."""
        return self._link.cancelled(index)

    def wants(self, index: int) -> bool:
        """See SourceLink."""
        return self._link.wants(index)

    def write(self, index: int, data: Buffer) -> bool:
        """See SourceLink."""
        return self._link.write(index, data)

    def arrived(self, index: int) -> None:
        """See SourceLink."""
        self._report(index)
        self._link.arrived(index)

    def failed(self, index: int, reason: str) -> None:
        """See SourceLink."""
        self._report(index)
        self._link.failed(index, reason)

    def deferred(self, index: int) -> None:
        """See SourceLink."""
        self._report(index)
        self._link.deferred(index)

    def corrupt(self, index: int) -> None:
        """See SourceLink."""
        self._report(index)
        self._link.corrupt(index)

    def _report(self, index: int) -> None:
        self._taken.discard(index)
        self._reported.set()
