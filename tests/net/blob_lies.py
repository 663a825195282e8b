"""What holders of a blob may say that breaks the protocol, on streams and on lanes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blob_kit import CHUNK, N_CHUNKS, Pair, chunk_of, honest, on

from peatnet.net.blob_messages import (
    ChunkReply,
    ChunkRequest,
    HaveRequest,
    More,
    Refusal,
    TableReply,
    pack_indices,
)

if TYPE_CHECKING:
    from peatnet.net.blob_messages import Reply

BITMAP = bytes((N_CHUNKS + 7) // 8)


def tells(number: int, indices: list[int]) -> Any:
    """A push of these indices."""
    return lambda *_: (More(number, full=False), pack_indices(indices))


def has_first(pair: Pair, _: Any) -> tuple[Reply, bytes]:
    """An honest answer of a holder of chunk 0 alone."""
    return pair.have(full=False), b"\x01\x00"


def has_all(*_: Any) -> tuple[Reply, bytes]:
    return More(0, full=True), b""


LIES = {
    "two answers to have": on(HaveRequest, honest, honest),
    "an answer to nothing": on(HaveRequest, lambda p, _: (p.have(number=7), b"")),
    "a full bitmap with bytes": on(HaveRequest, lambda p, _: (p.have(), BITMAP)),
    "a bitmap too short": on(HaveRequest, lambda p, _: (p.have(full=False), b"\xff")),
    "a bitmap too long": on(HaveRequest, lambda p, _: (p.have(full=False), bytes(1000))),
    "a bitmap with padding": on(HaveRequest, lambda p, _: (p.have(full=False), b"\xff\xff")),
    "news before the answer": on(HaveRequest, tells(0, [1]), has_first),
    "news from one who has all": on(HaveRequest, honest, tells(0, [1])),
    "all, from one who has all": on(HaveRequest, honest, has_all),
    "all, twice": on(HaveRequest, has_first, has_all, has_all),
    "news of a chunk that was told": on(HaveRequest, has_first, tells(0, [0])),
    "news of a chunk twice": on(HaveRequest, has_first, tells(0, [3]), tells(0, [4, 3])),
    "news of a chunk that is not": on(HaveRequest, has_first, tells(0, [N_CHUNKS])),
    "news to another question": on(HaveRequest, has_first, tells(5, [1])),
    "no news": on(HaveRequest, has_first, tells(0, [])),
    "too much news": on(HaveRequest, has_first, tells(0, list(range(4097)))),
    "half an index": on(
        HaveRequest, has_first, lambda *_: (More(0, full=False), b"\x00\x00\x00\x01\x00")
    ),
    "all and more": on(HaveRequest, has_first, lambda *_: (More(0, full=True), bytes(4))),
    "beginning anew for ever": on(HaveRequest, *[has_first] * 100),
    "a table": on(HaveRequest, lambda p, _: (TableReply(0), p.table.digests)),
    "a chunk before the first request": on(
        HaveRequest, lambda p, _: (ChunkReply(1, 0), chunk_of(p.table, 0))
    ),
    "another chunk": on(
        ChunkRequest, lambda _, r: (ChunkReply(N_CHUNKS + 9, N_CHUNKS + 8), bytes(CHUNK))
    ),
    "another number": on(
        ChunkRequest, lambda p, r: (ChunkReply(r.number + 1, r.index), chunk_of(p.table, r.index))
    ),
    "a chunk twice": on(ChunkRequest, honest, honest),
    "an empty chunk": on(ChunkRequest, lambda _, r: (ChunkReply(r.number, r.index), b"")),
    "a chunk too long": on(
        ChunkRequest, lambda _, r: (ChunkReply(r.number, r.index), bytes(CHUNK + 1))
    ),
    "a refusal of nothing": on(ChunkRequest, lambda *_: (Refusal(9999, "absent"), b"")),
    "a refusal twice": on(
        ChunkRequest,
        lambda _, r: (Refusal(r.number, "absent"), b""),
        lambda _, r: (Refusal(r.number, "absent"), b""),
    ),
    "a refusal with a payload": on(
        ChunkRequest, lambda _, r: (Refusal(r.number, "absent"), b"more")
    ),
    "a refusal to have that nobody asked for": on(
        ChunkRequest, lambda *_: (Refusal(0, "absent"), b""), lambda *_: (Refusal(0, "absent"), b"")
    ),
}


RAW_LIES = {
    "garbage": b"\x00\x00\x00\x02\x00\x00\x00\x00\xc1\xc1",
    "a header of 4 GiB": b"\xff\xff\xff\xff\x00\x00\x00\x00",
    "a payload of 4 GiB": b"\x00\x00\x00\x01\xff\xff\xff\xff\x80",
    "an empty map": b"\x00\x00\x00\x01\x00\x00\x00\x00\x80",
}
