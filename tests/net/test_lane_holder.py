"""The holder's loop on a lane, in this thread, on a lane that is only a script."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from blob_kit import CHUNK, DATA, N_CHUNKS
from net_tools import place

from peatnet.errors import PeerLost
from peatnet.net import upload_gate
from peatnet.net.blob_answers import Answers
from peatnet.net.blob_messages import ChunkRequest, HaveRequest, TableRequest
from peatnet.net.lanes.holder import Holder
from peatnet.net.upload_gate import UploadGate
from peatnet.net.wire import Fields
from peatnet.swarm.window import USUAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from net_tools import Place

    from peatnet.blobs import BlobInfo


class Script:
    """In place of LaneSocket: gives these requests, notes what is sent, and has ended when there are no more.

    Args:
        requests: their headers; None where the next one is not there yet.
    """

    def __init__(self, requests: Iterator[dict[str, Any] | None]) -> None:
        self.requests = requests
        self.next: dict[str, Any] | None = None
        self.heard = 0
        self.sent: list[
            tuple[str, int, int]
        ] = []  # what, its bytes, and what had been heard by then

    def wait(self, seconds: float, *, reading: bool = True) -> bool:
        if not reading or self.next is not None:
            return reading
        try:
            self.next = next(self.requests)
        except StopIteration:
            raise PeerLost("the lane ended") from None
        return self.next is not None

    def wake(self) -> None: ...

    def receive(self, *, max_payload: int) -> tuple[Fields, int]:
        header, self.next = self.next, None
        assert header is not None
        self.heard += 1
        return Fields(header), 0

    def send(self, header: dict[str, Any], payload: Any = b"") -> None:
        self.sent.append((header["t"], memoryview(payload).nbytes, self.heard))

    def send_behind(self, header: dict[str, Any], buffer: Any, length: int, **_: Any) -> None:
        self.sent.append((header["t"], length, self.heard))


@pytest.fixture
def held(tmp_path: Path) -> tuple[Place, BlobInfo]:
    """A place that has the blob."""
    (tmp_path / "data").write_bytes(DATA)
    holding = place(tmp_path / "holding")
    return holding, holding.store.add_file(tmp_path / "data", chunk_size=CHUNK)


def serve(holder: Holder) -> None:
    with pytest.raises(PeerLost):
        holder.run()


def test_news_that_comes_when_the_lane_has_ended_leaves_nothing_behind(
    tmp_path: Path, held: tuple[Place, BlobInfo]
) -> None:
    _, info = held
    taking = place(tmp_path / "partial")
    store = taking.store
    partial = store.start_partial(info.table, info.hash)
    pending: list[Callable[[], None]] = []

    def requests() -> Iterator[dict[str, Any] | None]:
        yield HaveRequest(0, info.hash, watch=True).header()
        # Another thread has news: it takes out those who wait for them, and calls one after the other.
        pending.extend(store._shelf.wakers._waiting.pop(info.hash))

    telling: set[Holder] = set()
    holder = Holder(store, UploadGate(), Script(requests()), "p", telling)  # type: ignore[arg-type]
    serve(holder)
    (ring,) = pending
    ring()
    assert not telling
    partial.abandon()


def test_a_chunk_whose_time_has_come_waits_for_no_other_request(
    held: tuple[Place, BlobInfo],
) -> None:
    holding, info = held
    gate = UploadGate()
    ahead = [gate.submit(info.hash, 0, "p", 3, CHUNK, lambda: None) for _ in range(USUAL)]

    def requests() -> Iterator[dict[str, Any] | None]:
        yield ChunkRequest(1, info.hash, 0).header()
        yield None
        for number in range(2, 10):
            if number == 5:
                assert gate._uploads.waiting == 1
                ahead[0].done(sent=True)
            yield HaveRequest(number, info.hash).header()

    lane = Script(requests())
    serve(Holder(holding.store, gate, lane, "p", set()))  # type: ignore[arg-type]
    assert [heard for what, _, heard in lane.sent if what == "chunk"] == [4]


def test_a_long_piece_of_a_table_waits_for_its_turn(
    held: tuple[Place, BlobInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_gate, "WAITS_FROM", 32 * N_CHUNKS)
    holding, info = held
    gate = UploadGate()
    ahead = [gate.submit(info.hash, 0, "p", 3, CHUNK, lambda: None) for _ in range(USUAL)]

    def requests() -> Iterator[dict[str, Any] | None]:
        yield TableRequest(1, info.hash, 0, N_CHUNKS).header()
        yield ChunkRequest(2, info.hash, 0).header()
        yield TableRequest(3, info.hash, 1, N_CHUNKS).header()
        yield None
        assert lane.sent[1:] == [("table", 32 * (N_CHUNKS - 1), 3)]
        assert gate._uploads.waiting == 1
        ahead[0].done(sent=True)
        yield None
        yield None

    lane = Script(requests())
    serve(Holder(holding.store, gate, lane, "p", set()))  # type: ignore[arg-type]
    assert [(what, size) for what, size, _ in lane.sent[2:]] == [
        ("table", 32 * N_CHUNKS),
        ("chunk", CHUNK),
    ]
    # The chunks that were ahead, of which one was sent, are not this lane's.
    assert gate.sent_bytes == 32 * (2 * N_CHUNKS - 1) + 2 * CHUNK


def test_a_lane_takes_no_question_of_one_who_has_been_answered_too_much(
    held: tuple[Place, BlobInfo],
) -> None:
    holding, info = held
    gate = UploadGate()

    def requests() -> Iterator[dict[str, Any] | None]:
        yield HaveRequest(0, info.hash).header()
        gate.charge("p", 2**30)
        yield HaveRequest(1, info.hash).header()
        yield HaveRequest(2, info.hash).header()

    class Deaf(Script):
        def wait(self, seconds: float, *, reading: bool = True) -> bool:
            if not reading:
                raise PeerLost("deaf")
            return super().wait(seconds)

    lane = Deaf(requests())
    serve(Holder(holding.store, gate, lane, "p", set()))  # type: ignore[arg-type]
    assert lane.heard == 2


def test_a_chunk_that_is_gone_when_its_turn_comes_is_refused_and_not_counted(
    held: tuple[Place, BlobInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Answers, "read", lambda *_: False)
    holding, info = held
    gate = UploadGate()
    lane = Script(iter([ChunkRequest(1, info.hash, 0).header(), None]))
    serve(Holder(holding.store, gate, lane, "p", set()))  # type: ignore[arg-type]
    assert [what for what, *_ in lane.sent] == ["ok", "no"]
    assert (gate.sent_bytes, gate._uploads.out) == (0, 0)
