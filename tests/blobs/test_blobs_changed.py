"""Serving what somebody has changed on disk: not served, set aside, and told of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from blobs_tools import K64, Bench, names_in, overwrite

from peatnet.blobs import ChunkTable, Hash
from peatnet.errors import NotFound

if TYPE_CHECKING:
    from peatnet.blobs import Reader, Store


def opened(store: Store, blob: Hash) -> Reader:
    reader = store.open_reader(blob)
    assert reader is not None
    return reader


@pytest.mark.parametrize("restarted", [False, True])
def test_a_chunk_that_is_not_what_it_was_is_not_read(bench: Bench, *, restarted: bool) -> None:
    blob, data = bench.add()
    store = bench.again() if restarted else bench.store
    told: list[str] = []
    store.tell_of_damage(lambda: told.append("damage"))
    info = store.info(blob)
    assert info is not None
    buffer = memoryview(bytearray(K64))
    with opened(store, blob) as reader:
        assert reader.read_into(2, buffer) == K64
    overwrite(info.path, 2 * K64 + 5, b"damage")
    with opened(store, blob) as reader:
        assert reader.read_into(1, buffer) == K64
        assert buffer == data[K64 : 2 * K64]
        with pytest.raises(NotFound, match="damaged"):
            reader.read_into(2, buffer)
        assert not reader.has(1)  # nor is the rest served any more, though it is right
    assert store.info(blob) is None
    assert told == ["damage"]
    assert names_in(bench.root / "damaged") == [f"{blob}.blob"]


def test_a_chunk_is_hashed_once_for_all_readers(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob, _ = bench.add()
    bench.again()
    looked_at: list[int] = []
    real = ChunkTable.matches

    def matches(self: ChunkTable, index: int, data: memoryview) -> bool:
        looked_at.append(index)
        return bool(real(self, index, data))

    monkeypatch.setattr(ChunkTable, "matches", matches)
    buffer = memoryview(bytearray(K64))
    for _ in range(2):
        with opened(bench.store, blob) as reader:
            reader.read_into(0, buffer)
            reader.read_into(5, buffer)
    assert looked_at == [0, 5]
