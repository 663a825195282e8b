"""Both ends of a bare py-libp2p stream (Noise, yamux, TCP), with nothing on top: what the library itself can do.

Run by throughput.py: ``bare_libp2p.py source SIZE`` prints its address; ``bare_libp2p.py sink SIZE ADDRESS`` prints
"ready", waits for a line, takes SIZE bytes into memory, and reports. With a PATH after the address, it writes them to that
file as well, in a worker thread, and syncs it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING

import trio
from ends import wait_for_go
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL_ID
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_PROTOCOL_ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr

if TYPE_CHECKING:
    from libp2p.abc import IHost, INetStream

PROTOCOL = TProtocol("/peatnet-bench/bare/1")
WRITE = 1024 * 1024


def make_host() -> IHost:
    """A host with the security and the muxer that peatnet uses, and the library's defaults otherwise."""
    key_pair = create_new_key_pair()
    noise = NoiseTransport(key_pair, noise_privkey=create_noise_key_pair().private_key)
    return new_host(
        key_pair=key_pair,
        sec_opt={NOISE_PROTOCOL_ID: noise},
        muxer_opt={TProtocol(YAMUX_PROTOCOL_ID): Yamux},
    )


async def source(size: int) -> None:
    """Send ``size`` bytes to whoever asks, until ended."""
    data = os.urandom(WRITE)
    host = make_host()

    async def send(stream: INetStream) -> None:
        await stream.read(1)
        for offset in range(0, size, WRITE):
            await stream.write(data[: size - offset])
        await stream.read(1)
        await stream.close()

    host.set_stream_handler(PROTOCOL, send)
    async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        print(host.get_addrs()[0], flush=True)
        await trio.sleep_forever()


async def sink(size: int, address: str, path: str | None) -> None:
    """Take ``size`` bytes, once told to, put them on disk if a path is given, and say how long it took."""
    host = make_host()
    info = info_from_p2p_addr(Multiaddr(address))
    async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        await host.connect(info)
        stream = await host.new_stream(info.peer_id, [PROTOCOL])
        began, _ = await trio.to_thread.run_sync(wait_for_go)
        await stream.write(b"?")
        if path is None:
            await drop(stream, size)
        else:
            await keep(stream, size, path)
        print(json.dumps({"seconds": time.perf_counter() - began}), flush=True)
        await stream.write(b"!")
        await trio.sleep_forever()


async def drop(stream: INetStream, size: int) -> None:
    """Read and forget."""
    received = 0
    while received < size:
        received += len(await stream.read(WRITE))


async def keep(stream: INetStream, size: int, path: str) -> None:
    """Read, and write each WRITE bytes while the next ones are read; sync at the end."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    os.posix_fallocate(fd, 0, size)
    to_write, pieces = trio.open_memory_channel[tuple[bytearray, int]](1)

    async def write() -> None:
        async for piece, offset in pieces:
            await trio.to_thread.run_sync(os.pwrite, fd, piece, offset)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        async with to_write:
            for offset in range(0, size, WRITE):
                piece = bytearray()
                while len(piece) < min(WRITE, size - offset):
                    piece += await stream.read(min(WRITE, size - offset) - len(piece))
                await to_write.send((piece, offset))
    await trio.to_thread.run_sync(os.fsync, fd)
    os.close(fd)


if __name__ == "__main__":
    if sys.argv[1] == "source":
        trio.run(source, int(sys.argv[2]))
    else:
        trio.run(sink, int(sys.argv[2]), sys.argv[3], sys.argv[4] if sys.argv[4:] else None)
