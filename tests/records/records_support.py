"""Keys, records and strategies that the tests of the records room share."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import msgpack
from hypothesis import strategies as st

from peatnet.records import KeyPair, Record, RecordType, sign_record
from peatnet.records.envelope import Envelope, encode_envelope, signing_input

if TYPE_CHECKING:
    from peatnet.records import PublicKey

ALICE, BOB, CAROL = (KeyPair.from_seed(bytes([number]) * 32) for number in (1, 2, 3))
PEOPLE = (ALICE, BOB, CAROL)


@cache
def make(
    who: int = 0,
    record_type: RecordType = RecordType.MANIFEST,
    key: str = "yolo@1",
    sequence: int = 1,
    body: bytes = b"{}",
) -> Record:
    return sign_record(PEOPLE[who], record_type, key, sequence, body)


def seal(
    payload: bytes,
    *,
    keys: KeyPair = ALICE,
    payload_type: bytes = RecordType.MANIFEST.payload_type,
    public: PublicKey | None = None,
) -> bytes:
    """An envelope whose signature is good, whatever is in it: what a hostile publisher can make."""
    signature = keys.sign(signing_input(payload_type, payload))
    return encode_envelope(Envelope(public or keys.public, payload_type, payload, signature))


def pack(**fields: object) -> bytes:
    packed: bytes = msgpack.packb(fields, use_bin_type=True)
    return packed


# A small world, so that slots, sequence numbers and ids meet often.
records = st.builds(
    make,
    st.integers(0, 2),
    st.sampled_from(RecordType),
    st.sampled_from(["yolo@1", "yolo@2"]),
    st.integers(0, 3),
    st.sampled_from([b"{}", b"{ }", b"x" * 200]),
)
record_lists = st.lists(records, max_size=25)
