"""One download's lanes to one peer, as trio sees them: requests out to the threads, their reports back in."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from peatnet.concurrency import bare_errors
from peatnet.errors import PeerLost, RemoteProtocolError
from peatnet.log import get_logger
from peatnet.net.blob_messages import LATER
from peatnet.net.holdings import Patience
from peatnet.net.lanes.client import LaneUnavailable
from peatnet.net.lanes.count import LaneCount, first_count, share_of
from peatnet.net.lanes.fetcher import Board, Fetcher, Kind
from peatnet.net.lanes.messages import MAX_LANES_PER_DOWNLOAD
from peatnet.net.lanes.threads import in_lane_thread
from peatnet.net.round_trip import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peatnet.net.lanes.client import LaneClient
    from peatnet.net.lanes.sockets import LaneSocket
    from peatnet.transfer import SourceLink

log = get_logger(__name__)


class LaneSession:
    """Runs lanes for one link.

    Args:
        link: the download's.
        client: opens more lanes to the same peer.
    """

    def __init__(self, link: SourceLink, client: LaneClient) -> None:
        self.delivered = 0
        self._link = link
        self._client = client
        self._token = trio.lowlevel.current_trio_token()
        self._board = Board(self._notify)
        self._patience = Patience()
        self._asked: set[int] = set()  # taken from the link, and nothing reported of them yet
        self._fetchers: list[Fetcher] = []
        self._opening = 0
        self._over = trio.Event()  # the last lane is gone, or something came up
        self._error: Exception | None = None  # what came up where nobody could be told
        self._reporting = False
        # Of `run`.
        self._nursery: trio.Nursery
        self._count: LaneCount
        self._round_trip: float

    async def run(self, first: LaneSocket) -> None:
        """Deliver chunks until the last lane is gone.

        Cancellation: the lanes are shut, their threads waited for.

        Args:
            first: an open lane; becomes this object's.

        Raises:
            NoSource: the peer is busy, or has the blob cut into other chunks.
            RemoteProtocolError: it broke the protocol.
            DiskFull, StorageError: as raised by ``link.write``.
        """
        try:
            with bare_errors():
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    # A lane's first packet may have waited behind much that others had to send.
                    self._round_trip = nearest(first.round_trip(), self._client.round_trip())
                    self._count = LaneCount(MAX_LANES_PER_DOWNLOAD, first_count(self._round_trip))
                    self._start(first)
                    self._adjust()
                    self._link.listen(self._requested)
                    self._take_requests()
                    await self._over.wait()
                    nursery.cancel_scope.cancel()
            if self._error is not None:
                raise self._error
            self._handle_reports()
        finally:
            self._link.listen(None)
            # However it ended: what is on disk is not fetched again.
            for report in self._board.reports:
                if report.kind is Kind.ARRIVED:
                    self._link.arrived(report.chunk)

    # Lanes.

    def _start(self, lane: LaneSocket) -> None:
        leads = not self._fetchers
        fetcher = Fetcher(lane, self._link, self._board, self._client.peer_id, leads=leads)
        self._fetchers.append(fetcher)
        self._lanes_changed()
        self._nursery.start_soon(self._run_lane, fetcher)

    async def _run_lane(self, fetcher: Fetcher) -> None:
        try:
            with self._blame():
                await in_lane_thread(fetcher.run, fetcher.lane.shut, self._client.threads)
        except PeerLost as exc:
            log.info("lane lost", peer=self._client.peer_id, reason=exc.message)
            self._count.lost(len(self._fetchers) - 1, trio.current_time())
        finally:
            fetcher.lane.close()
            self._fetchers.remove(fetcher)
            # What it owed is asked for on the others, first of all.
            self._board.wanted.extendleft(fetcher.out)
            self._notify()  # it may not have told its last
            if self._fetchers:
                self._fetchers[0].leads = True
                self._fetchers[0].lane.wake()
                self._lanes_changed()
            else:
                self._over.set()

    def _staying(self) -> list[Fetcher]:
        return [fetcher for fetcher in self._fetchers if not fetcher.retiring]

    def _lanes_changed(self) -> None:
        self._link.line(self._round_trip, max(1, len(self._staying())))
        self._share_out()

    def _share_out(self) -> None:
        """Let each lane that stays have its share of what is asked for, and wake who waits for some."""
        # Those that are being opened have their share, too.
        lanes = len(self._staying()) + self._opening
        self._board.depth = share_of(len(self._asked), lanes)
        for fetcher in self._fetchers:
            if fetcher.parked and fetcher.has_room():
                fetcher.lane.wake()

    def _adjust(self) -> None:
        """Have as many lanes as pay, until all is over."""
        if self._over.is_set():
            return
        staying = self._staying()
        if len(staying) < self._count.target:
            while len(staying) + self._opening < self._count.target:
                self._opening += 1
                self._nursery.start_soon(self._open_another)
        elif len(staying) > self._count.target:
            staying[-1].retiring = True
            staying[-1].lane.wake()
            self._lanes_changed()

    async def _open_another(self) -> None:
        try:
            lane = await self._client.open()
        except LaneUnavailable as exc:
            log.debug("no other lane", peer=self._client.peer_id, reason=str(exc))
            self._count.unavailable(trio.current_time())
            self._opening -= 1
            self._share_out()
        else:
            self._opening -= 1
            self._start(lane)
        self._adjust()

    # Requests and reports. Each crossing from a lane's thread is one turn of trio's loop: what it tells is dealt with where
    # it arrives, and what is asked for next goes back at once. The thread is held up for as long as that takes, since it
    # cannot do without the interpreter.

    def _notify(self) -> None:
        """Any thread."""
        self._token.run_sync_soon(self._has_news, idempotent=True)

    def _has_news(self) -> None:
        if self._over.is_set():
            return  # `run` deals with the last ones
        try:
            self._handle_reports()
            self._take_requests()
            if not self._asked:
                self._count.idle()
            self._adjust()
        except Exception as exc:  # noqa: BLE001  # raised by `run`; from here it would end the whole program
            self._error = exc
            self._over.set()

    def _requested(self) -> None:
        if not self._reporting:  # or all are taken when that is done
            self._take_requests()

    def _take_requests(self) -> None:
        while (index := self._link.poll_request()) is not None:
            self._pass_on(index)
        self._share_out()

    def _pass_on(self, index: int) -> None:
        # Where it was cancelled and is wanted again, the first request still stands.
        if index not in self._asked:
            self._asked.add(index)
            self._board.wanted.append(index)

    def _handle_reports(self) -> None:
        self._reporting = True
        try:
            with self._blame():
                self._pass_reports_on()
        finally:
            self._reporting = False

    @contextmanager
    def _blame(self) -> Iterator[None]:
        """Count what the peer does wrong, once, where it comes up."""
        try:
            yield
        except RemoteProtocolError as exc:
            self._client.on_fault(exc.message)
            raise

    def _pass_reports_on(self) -> None:
        reports = self._board.reports
        while reports:
            report = reports.popleft()
            index = report.chunk
            self._asked.discard(index)
            match report.kind:
                case Kind.ARRIVED:
                    self.delivered += 1
                    self._count.arrived(self._link.table.length_of(index), trio.current_time())
                    self._link.arrived(index)
                case Kind.CORRUPT:
                    self._link.corrupt(index)
                case Kind.REFUSED:
                    if report.reason == LATER and self._patience.has_for(index):
                        self._link.deferred(index)
                    else:
                        self._link.failed(index, report.reason)
                case Kind.FORGOTTEN:
                    if not self._link.cancelled(index):  # it is wanted again
                        self._pass_on(index)
                case Kind.HAS:
                    self._link.has(report.bitmap)
                case Kind.GAINED:
                    self._link.gained(report.gained)
