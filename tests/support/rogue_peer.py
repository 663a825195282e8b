"""A stranger on the network: a bare libp2p host, without peatnet, that sends what it is told to send.

Usage: python rogue_peer.py ADDR, with one JSON object a line on stdin and one answer a line on stdout::

    {"do": "stream", "protocol": P, "data": HEX, "wait": SECONDS}
                                   opens a stream, sends the bytes, and reads until the other side ends the
                                   stream or the time is over: {"reply": HEX, "ended": bool}
    {"do": "publish", "topic": T, "data": HEX}    a signed gossip message: {}
    {"do": "connected"}                           {"connected": bool}
    {"do": "reconnect"}                           {"connected": bool}
    {"do": "mesh", "topic": T}     waits until the other side has subscribed: {"mesh": bool}

An answer {"error": text} says that libp2p refused. The first line on stdout is {"peer_id": ...}. The seed of its
key is given as the second argument, 64 hex digits, if it matters.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from typing import TYPE_CHECKING, Any

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
    from libp2p.abc import IHost

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

    async def _mesh(self, step: dict[str, Any]) -> dict[str, Any]:
        while self.target.peer_id not in self.pubsub.peer_topics.get(step["topic"], set()):  # noqa: ASYNC110  # py-libp2p has no event for it
            await trio.sleep(0.05)
        return {"mesh": True}

    async def _publish(self, step: dict[str, Any]) -> dict[str, Any]:
        await self.pubsub.publish(step["topic"], bytes.fromhex(step["data"]))
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


async def run(target: str, seed: bytes) -> None:
    keys = create_new_key_pair(seed)
    host = new_host(
        key_pair=keys,
        sec_opt={
            NOISE: NoiseTransport(
                libp2p_keypair=keys, noise_privkey=create_noise_key_pair().private_key
            )
        },
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
    async with (
        host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]),
        background_trio_service(pubsub),
        background_trio_service(gossip),
    ):
        await pubsub.wait_until_ready()
        stranger = Stranger(host, pubsub, target)
        await host.connect(stranger.target)
        say({"peer_id": str(host.get_id())})
        lines = trio.lowlevel.FdStream(os.dup(0))
        rest = b""
        async for data in lines:
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                say(await stranger.do(json.loads(line)))
        os._exit(0)  # the host takes its time to stop, and nobody is waiting for it


def say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    trio.run(
        run,
        sys.argv[1],
        bytes.fromhex(sys.argv[2]) if len(sys.argv) > 2 else secrets.token_bytes(32),
    )
