"""Peers are Ed25519 keys, and nothing else is read as one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from Crypto.PublicKey import RSA
from libp2p.crypto.exceptions import MissingDeserializerError
from libp2p.crypto.keys import KeyPair, KeyType
from libp2p.crypto.pb import crypto_pb2
from libp2p.crypto.rsa import create_new_key_pair
from libp2p.crypto.secp256k1 import create_new_key_pair as create_secp256k1
from libp2p.crypto.serialization import deserialize_public_key
from net_tools import host, until

from peatnet.errors import PeerLost
from peatnet.net import host as host_module
from peatnet.net.host import open_host

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    "create", [lambda: create_new_key_pair(1024), create_secp256k1], ids=["RSA", "secp256k1"]
)
async def test_a_stranger_with_another_key_is_not_let_in(
    monkeypatch: pytest.MonkeyPatch, create: Callable[[], KeyPair]
) -> None:
    keys = create()
    async with host() as first:
        monkeypatch.setattr(host_module, "create_new_key_pair", lambda _seed: keys)
        async with open_host(bytes(32), [], mdns=False) as stranger:
            with pytest.raises(PeerLost):
                await stranger.connect(first.peer_id, first.listening)
            network: Any = first.libp2p.get_network()
            await until(lambda: not network._inbound_limiter.borrowed_tokens)
            assert first.connected == frozenset()


async def test_a_private_key_is_not_read_where_a_public_one_belongs() -> None:
    """py-libp2p would, and prove its factors to be primes, which takes long for large ones."""
    async with host():
        sent = crypto_pb2.PublicKey(
            key_type=KeyType.RSA.value, data=RSA.generate(1024).export_key("DER")
        )
        with pytest.raises(MissingDeserializerError):
            deserialize_public_key(sent.SerializeToString())
