"""A stranger on the network: a bare libp2p host, without peatnet, that says what it is told to say.

Usage: python rogue_peer.py ADDR, with one JSON object a line on stdin and one answer a line on stdout::

    {"do": "host", "seed": HEX}    becomes another host with this key and connects: {"peer_id": text}
    {"do": "stream", "protocol": P, "data": HEX, "wait": SECONDS}
                                   opens a stream, sends the bytes, and reads until the other side ends the
                                   stream or the time is over: {"reply": HEX, "ended": bool}
    {"do": "serve", "replies": {T: [HEADER, HEX]}}
                                   answers requests of type T on /peatnet/blob/1 with this header, in which
                                   values {"hex": ...} are bytes and "@i", "@c" are those of the request, and
                                   this payload; a request of another type is not answered: {}
    {"do": "publish", "topic": T, "data": HEX}    a signed gossip message, once the other side listens: {}
    {"do": "connected"}                           {"connected": bool}
    {"do": "reconnect"}                           {"connected": bool}

An answer {"error": text} says that libp2p refused. The first step must be "host".
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import sys
import time
from typing import TYPE_CHECKING, Any

import msgpack
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.stream.exceptions import StreamEOF, StreamReset
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, PROTOCOL_ID_V12, GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

if TYPE_CHECKING:
    from libp2p.abc import IHost, INetStream

STEP_TIMEOUT = 20.0
MAX_REPLY = 8 * 1024 * 1024


class Stranger:
    """The host, its gossip, and the one node that it talks to."""

    def __init__(self, host: IHost, pubsub: Pubsub, target: str) -> None:
        self.host = host
        self.pubsub = pubsub
        self.target = info_from_p2p_addr(Multiaddr(target))

    def connected(self) -> bool:
        return self.target.peer_id in self.host.get_connected_peers()

    async def do(self, step: dict[str, Any]) -> dict[str, Any]:
        try:
            with trio.fail_after(STEP_TIMEOUT):
                return await getattr(self, f"_{step['do']}")(step)  # type: ignore[no-any-return]  # all do
        except (BaseLibp2pError, OSError, trio.TooSlowError, trio.BrokenResourceError) as exc:
            return {"error": repr(exc)}

    async def _connected(self, step: dict[str, Any]) -> dict[str, Any]:
        return {"connected": self.connected()}

    async def _reconnect(self, step: dict[str, Any]) -> dict[str, Any]:
        await self.host.connect(self.target)
        return {"connected": self.connected()}

    async def _publish(self, step: dict[str, Any]) -> dict[str, Any]:
        listening = self.pubsub.peer_topics
        while self.target.peer_id not in listening.get(step["topic"], set()):  # noqa: ASYNC110  # py-libp2p has no event for it
            await trio.sleep(0.02)
        await self.pubsub.publish(step["topic"], bytes.fromhex(step["data"]))
        return {}

    async def _serve(self, step: dict[str, Any]) -> dict[str, Any]:
        async def answer(stream: INetStream) -> None:
            with contextlib.suppress(BaseLibp2pError):
                while True:
                    lengths = struct.unpack(">II", await read_exactly(stream, 8))
                    request = msgpack.unpackb(await read_exactly(stream, sum(lengths)))
                    if request["t"] in step["replies"]:
                        await stream.write(reply_to(request, *step["replies"][request["t"]]))

        self.host.set_stream_handler(TProtocol("/peatnet/blob/1"), answer)
        return {}

    async def _stream(self, step: dict[str, Any]) -> dict[str, Any]:
        stream = await self.host.new_stream(self.target.peer_id, [TProtocol(step["protocol"])])
        reply, ended = b"", False
        try:
            await stream.write(bytes.fromhex(step["data"]))
            with trio.move_on_after(step["wait"]):
                while len(reply) < MAX_REPLY:
                    part = await stream.read(65536)
                    if not part:
                        break
                    reply += part
                ended = True
        except (StreamEOF, StreamReset):
            ended = True
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 2):
                await stream.reset()
        return {"reply": reply.hex(), "ended": ended}


async def read_exactly(stream: INetStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = await stream.read(count - len(data))
        if not part:
            raise StreamEOF
        data += part
    return data


def reply_to(request: dict[str, Any], header: dict[str, Any], payload: str) -> bytes:
    def value(told: Any) -> Any:
        if isinstance(told, dict):
            return bytes.fromhex(told["hex"])
        return request[told[1:]] if isinstance(told, str) and told.startswith("@") else told

    packed: bytes = msgpack.packb({key: value(told) for key, told in header.items()})
    data = bytes.fromhex(payload)
    return struct.pack(">II", len(packed), len(data)) + packed + data


async def run_host(target: str, seed: bytes, *, task_status: Any) -> None:
    keys = create_new_key_pair(seed)
    noise_key = create_noise_key_pair().private_key
    host = new_host(
        key_pair=keys,
        sec_opt={NOISE: NoiseTransport(libp2p_keypair=keys, noise_privkey=noise_key)},
        muxer_opt={TProtocol(YAMUX): Yamux},
    )
    gossip = GossipSub(
        [PROTOCOL_ID_V12, PROTOCOL_ID_V11],
        6,
        4,
        12,
        heartbeat_interval=1,
        spam_protection_enabled=False,
    )
    pubsub = Pubsub(host, gossip, strict_signing=True)
    pubsub.counter = time.time_ns()
    leave, left = trio.Event(), trio.Event()
    async with (
        host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]),
        background_trio_service(pubsub),
        background_trio_service(gossip),
    ):
        await pubsub.wait_until_ready()
        stranger = Stranger(host, pubsub, target)
        await host.connect(stranger.target)
        task_status.started((stranger, leave, left))
        await leave.wait()  # cancelling py-libp2p's host would leave its listener open
        await host.disconnect(stranger.target.peer_id)
    left.set()


async def main(target: str) -> None:
    async with trio.open_nursery() as nursery:
        leave, left = trio.Event(), trio.Event()
        left.set()
        rest = b""
        async for data in trio.lowlevel.FdStream(os.dup(0)):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                step = json.loads(line)
                if step["do"] == "host":
                    leave.set()
                    with trio.move_on_after(STEP_TIMEOUT):
                        await left.wait()
                    stranger, leave, left = await nursery.start(
                        run_host, target, bytes.fromhex(step["seed"])
                    )
                    answer = {"peer_id": str(stranger.host.get_id())}
                else:
                    answer = await stranger.do(step)
                sys.stdout.write(json.dumps(answer) + "\n")
                sys.stdout.flush()
        os._exit(0)  # the host takes its time to stop, and nobody is waiting for it


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
