"""What a holder answers and pushes in one session, on a real store, without a network."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from net_tools import place

from peatnet.blobs import Bitmap, ChunkTable, Hash
from peatnet.net.blob_answers import Answer, Answers, chunk_header, refused
from peatnet.net.blob_messages import (
    ABSENT,
    LATER,
    MAX_MORE,
    ChunkRequest,
    HaveReply,
    HaveRequest,
    More,
    Refusal,
    TableRequest,
    decode_reply,
    unpack_indices,
)
from peatnet.net.holdings import Holdings
from peatnet.net.upload_gate import UploadGate
from peatnet.net.wire import Fields

if TYPE_CHECKING:
    from pathlib import Path

    from net_tools import Place

    from peatnet.blobs import PartialBlob

CHUNK = 64 * 1024
N = 12
DATA = random.Random(3).randbytes((N - 1) * CHUNK + 777)
BLOB = Hash.of(DATA)
TABLE = ChunkTable(
    len(DATA),
    CHUNK,
    b"".join(Hash.of(DATA[at : at + CHUNK]) for at in range(0, len(DATA), CHUNK)),
)
OTHER = Hash(bytes(32))


def chunk_of(index: int) -> bytes:
    return DATA[TABLE.offset_of(index) : TABLE.offset_of(index) + TABLE.length_of(index)]


@dataclass
class Holder:
    """A store and one session with it; counts how often the session is woken."""

    here: Place
    gate: UploadGate = field(default_factory=UploadGate)
    woken: int = 0

    def __post_init__(self) -> None:
        self.answers = self.session("someone")

    def session(self, peer_id: str) -> Answers:
        def on_news() -> None:
            self.woken += 1

        return Answers(self.here.store, peer_id, self.gate, on_news)

    def start(self, *indices: int) -> PartialBlob:
        partial = self.here.store.start_partial(TABLE, BLOB)
        for index in indices:
            partial.write(index, chunk_of(index))
        return partial

    def whole(self, tmp_path: Path) -> None:
        (tmp_path / "data").write_bytes(DATA)
        self.here.store.add_file(tmp_path / "data", chunk_size=CHUNK)

    def pushes(self) -> list[tuple[HaveReply | More, tuple[int, ...] | bytes]]:
        """All the news there is, decoded."""
        found: list[tuple[HaveReply | More, tuple[int, ...] | bytes]] = []
        while (news := self.answers.news()) is not None:
            reply, payload = decode_reply(Fields(news.header)), bytes(news.payload)
            assert isinstance(reply, (HaveReply, More))
            named = isinstance(reply, More) and not reply.full
            found.append((reply, unpack_indices(payload) if named else payload))
        return found


@pytest.fixture
def holder(tmp_path: Path) -> Holder:
    return Holder(place(tmp_path / "holder"))


def state(number: int, *, full: bool = False) -> HaveReply:
    return HaveReply(number, len(DATA), CHUNK, TABLE.table_hash, full)


def bitmap(*indices: int) -> bytes:
    return sum(1 << index for index in indices).to_bytes((N + 7) // 8, "little")


WATCH = HaveRequest(7, BLOB, watch=True)


def test_what_is_not_here_is_refused(holder: Holder) -> None:
    answers = holder.answers
    chunk, table = ChunkRequest(1, BLOB, 0), TableRequest(2, BLOB, 0, 1)
    assert answers.want(chunk) == refused(chunk, ABSENT)
    assert answers.table(table) == refused(table, ABSENT)
    assert answers.have(HaveRequest(3, BLOB)) == refused(HaveRequest(3, BLOB), ABSENT)
    assert answers.length_of(0) == 0
    assert not answers.read(0, memoryview(bytearray(CHUNK)))
    assert answers.news() is None
    answers.close()


def test_a_complete_blob_is_given_and_there_is_no_news_of_it(
    holder: Holder, tmp_path: Path
) -> None:
    holder.whole(tmp_path)
    answers = holder.answers
    assert answers.cold_for(WATCH)
    assert answers.have(WATCH) == Answer(state(7, full=True).header())
    assert not answers.cold_for(WATCH)
    assert answers.cold_for(HaveRequest(8, OTHER))
    table = answers.table(TableRequest(1, BLOB, N - 1, 100))
    assert bytes(table.payload) == TABLE.digests[-32:]
    for index in (0, N - 1):
        request = ChunkRequest(1 + index, BLOB, index)
        assert answers.want(request) is None
        view = memoryview(bytearray(answers.length_of(index)))
        assert answers.read(index, view)
        assert view == chunk_of(index)
        assert chunk_header(request) == {"t": "chunk", "i": 1 + index, "c": index}
    assert answers.want(ChunkRequest(9, BLOB, N)) == refused(ChunkRequest(9, BLOB, N), ABSENT)
    assert not answers.read(0, memoryview(bytearray(CHUNK - 1)))
    assert answers.news() is None
    assert holder.woken == 0
    answers.close()


def test_gains_are_pushed_to_one_who_watches(holder: Holder) -> None:
    partial, answers = holder.start(1, 3), holder.answers
    assert answers.have(WATCH) == Answer(state(7).header(), bitmap(1, 3))
    partial.write(5, chunk_of(5))
    partial.write(3, chunk_of(3))
    partial.write(0, chunk_of(0))
    assert holder.woken == 1
    assert holder.pushes() == [(More(7, full=False), (5, 0))]
    assert holder.woken == 1
    partial.write(2, chunk_of(2))
    assert holder.woken == 2
    for index in partial.missing():
        partial.write(index, chunk_of(index))
    assert holder.pushes() == [(More(7, full=True), b"")]
    assert holder.woken == 2
    partial.close()
    assert holder.woken == 2
    answers.close()


def test_who_has_all_chunks_does_not_vouch_before_the_whole_is_verified(holder: Holder) -> None:
    partial, answers = holder.start(*range(N)), holder.answers
    assert answers.have(WATCH) == Answer(state(7).header(), bitmap(*range(N)))
    assert (holder.pushes(), holder.woken) == ([], 0)  # no chunk is left to tell of
    holder.here.store.commit(partial, sha256=None)
    assert (holder.pushes(), holder.woken) == ([], 0)
    assert answers.have(WATCH) == Answer(state(7, full=True).header())
    answers.close()


def test_nothing_is_pushed_to_one_who_does_not_watch(holder: Holder) -> None:
    partial, answers = holder.start(), holder.answers
    answers.have(WATCH)
    answers.have(HaveRequest(8, BLOB))
    partial.write(5, chunk_of(5))
    assert (holder.pushes(), holder.woken) == ([], 0)
    answers.have(WATCH)
    answers.want(ChunkRequest(1, OTHER, 0))  # another blob ends it, too
    partial.write(6, chunk_of(6))
    assert (holder.pushes(), holder.woken) == ([], 0)
    answers.have(WATCH)
    answers.close()
    partial.write(7, chunk_of(7))
    assert (holder.pushes(), holder.woken) == ([], 0)
    assert answers.have(WATCH) == refused(WATCH, ABSENT)
    partial.close()


def test_a_watcher_hears_of_a_blob_that_is_begun_later_and_begun_anew(
    holder: Holder,
) -> None:
    answers = holder.answers
    assert answers.have(WATCH) == refused(WATCH, ABSENT)
    partial = holder.start()
    assert holder.woken == 1
    assert answers.cold
    assert holder.pushes() == []  # nothing to speak of yet
    partial.write(4, chunk_of(4))
    assert holder.woken == 2
    assert holder.pushes() == [(state(7), bitmap(4))]
    partial.close()
    assert holder.woken == 3
    assert holder.pushes() == []
    holder.here.store.discard(BLOB)
    partial = holder.start(8)
    assert holder.woken == 4
    assert holder.pushes() == [(state(7), bitmap(8))]
    partial.write(9, chunk_of(9))
    assert holder.pushes() == [(More(7, full=False), (9,))]
    holder.here.store.discard(BLOB)
    assert answers.want(ChunkRequest(1, BLOB, 8)) == refused(ChunkRequest(1, BLOB, 8), ABSENT)
    assert not answers.read(8, memoryview(bytearray(CHUNK)))
    assert holder.pushes() == []
    answers.close()


def test_a_push_has_its_bounds(holder: Holder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_MORE == 4096
    monkeypatch.setattr("peatnet.net.blob_answers.MAX_MORE", 3)
    partial = holder.start()
    holder.answers.have(WATCH)
    for index in range(7):
        partial.write(index, chunk_of(index))
    assert [named for _, named in holder.pushes()] == [(0, 1, 2), (3, 4, 5), (6,)]
    partial.close()
    holder.answers.close()


def test_what_another_got_is_put_off_once(holder: Holder, tmp_path: Path) -> None:
    holder.whole(tmp_path)
    one, other = holder.answers, holder.session("another")
    request = ChunkRequest(1, BLOB, 0)
    assert one.want(request) is None
    assert other.want(request) == refused(request, LATER)
    assert other.want(request) is None
    assert other.want(ChunkRequest(2, BLOB, 1)) is None
    assert one.want(request) is None
    one.close()
    third = holder.session("third")
    assert third.want(request) is None  # who got it has left
    other.close()
    third.close()


def test_a_partial_holder_puts_nothing_off(holder: Holder) -> None:
    partial, other = holder.start(0), holder.session("another")
    assert holder.answers.want(ChunkRequest(1, BLOB, 0)) is None
    assert other.want(ChunkRequest(1, BLOB, 0)) is None
    partial.close()
    holder.answers.close()
    other.close()


def test_the_last_have_gives_the_priority(holder: Holder) -> None:
    assert holder.answers.priority == 3
    holder.answers.have(HaveRequest(1, BLOB, priority=5))
    assert holder.answers.priority == 5
    holder.answers.close()


class Downloader:
    """Believes what a session of the holder tells it, and puts it together."""

    def __init__(self, answers: Answers) -> None:
        self.holdings = Holdings("holder", BLOB, TABLE, watch=True)
        self.here: set[int] = set()
        self._answers = answers

    def ask(self) -> None:
        self._take(self._answers.have(self.holdings.question(3)))

    def hear(self) -> None:
        while (news := self._answers.news()) is not None:
            self._take(news)

    def _take(self, answer: Answer) -> None:
        reply, payload = decode_reply(Fields(answer.header)), bytes(answer.payload)
        if isinstance(reply, More):
            self.holdings.expect(reply, len(payload))
            gained = self.holdings.more(reply, payload)
            self.here.update(range(N) if gained is None else gained)
            return
        if isinstance(reply, HaveReply):
            self.holdings.expect(reply, len(payload))
            told = self.holdings.have(reply, payload, now=0.0)
        else:
            assert isinstance(reply, Refusal)
            told = self.holdings.refusal(reply)
        self.here = set((Bitmap.full(N) if told is None else Bitmap.from_bytes(told, N)).iter_set())


steps = st.lists(
    st.one_of(st.integers(0, N - 1), st.sampled_from(["ask", "hear", "stop", "discard", "start"])),
    max_size=60,
)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps)
def test_what_is_told_is_believed_and_comes_to_what_is_here(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int | str]
) -> None:
    """Whatever happens to the holder's copy: its pushes keep to the rules, and in the end tell all."""
    holder = Holder(place(tmp_path_factory.mktemp("x") / "holder"))
    downloader = Downloader(holder.answers)
    partial: PartialBlob | None = None
    stops = 0
    for step in ["ask", *steps, "start", 3, "hear"]:
        if step == "ask":
            downloader.ask()
        elif step == "hear":
            downloader.hear()
        elif partial is None:
            partial = holder.start() if step == "start" else None
        elif isinstance(step, int):
            partial.write(step, chunk_of(step))
        elif step != "start" and stops < 15:
            stops += 1
            partial.close() if step == "stop" else holder.here.store.discard(BLOB)
            partial = None
    assert partial is not None
    assert downloader.here == {index for index in range(N) if partial.has(index)}
    holder.answers.close()
    partial.close()


def test_news_from_one_thread_while_another_writes(holder: Holder) -> None:
    partial, told = holder.start(), set[int]()
    news = threading.Event()
    answers = Answers(holder.here.store, "someone", holder.gate, news.set)
    answers.have(WATCH)

    def write() -> None:
        for index in range(N):
            partial.write(index, chunk_of(index))

    writer = threading.Thread(target=write)
    writer.start()
    full = False
    while not full:
        assert news.wait(20)
        news.clear()
        while (push := answers.news()) is not None:
            full = push.header["f"]
            gained = set() if full else set(unpack_indices(bytes(push.payload)))
            assert not gained & told
            told |= gained
    writer.join()
    answers.close()
    partial.close()
