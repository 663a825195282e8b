"""The one kind of key that names a peer here: Ed25519.

py-libp2p reads RSA keys, too, from whoever connects, before it knows anything of him. It takes private ones for public
ones and proves that their factors are prime, and it raises to any exponent: 4 KB of a stranger's stop a node for two
seconds, as often as he likes, and with a key that he has made to his liking each of his gossip messages costs milliseconds. No
node of ours has such a key; see docs/protocol.md, section 2.
"""

from __future__ import annotations

from libp2p.crypto import serialization
from libp2p.crypto.keys import KeyType


def refuse_other_keys() -> None:
    """From now on, for all that this process reads. Said again, it changes nothing."""
    readers = serialization.key_type_to_public_key_deserializer
    for kind in set(readers) - {KeyType.Ed25519.value}:
        del readers[kind]
