"""The whole is hashed behind a download, also behind one that is slow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from support.waiting import until
from transfer_support import CHUNK, World, make_data

from peatnet.blobs import WholeHasher
from peatnet.transfer.background import Follower

if TYPE_CHECKING:
    from pathlib import Path

    from peatnet.errors import PeatnetError

N_CHUNKS = 64


async def test_what_comes_slowly_is_hashed_long_before_a_whole_step_is_there(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, make_data(N_CHUNKS))
    partial = world.store.start_partial(world.table, world.hash)
    hasher = WholeHasher(partial, sha256=False)
    errors: list[PeatnetError] = []
    follower = Follower(hasher, len(world.data), errors.append)

    def arrive(index: int) -> None:
        piece = world.data[index * CHUNK : (index + 1) * CHUNK]
        partial.write(index, piece)
        follower.note(len(piece))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.run)
        await until(lambda: follower._look.statistics().tasks_waiting, "its first look to end")
        for index in range(N_CHUNKS // 2):
            arrive(index)
        await until(lambda: hasher.position == N_CHUNKS // 2 * CHUNK)
        nursery.cancel_scope.cancel()
    for index in range(N_CHUNKS // 2, N_CHUNKS):
        arrive(index)
    await follower.finish()
    assert hasher.blake3 == world.hash
    assert errors == []
    await trio.to_thread.run_sync(partial.close)
    world.close()
