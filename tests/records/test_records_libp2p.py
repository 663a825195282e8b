"""Another implementation accepts what we sign, and names it as we do; and the other way round."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.envelope import Envelope, make_unsigned, unmarshal_envelope
from libp2p.peer.id import ID
from records_support import make, pack

from peatnet.records import KeyPair, PeerId, RecordType, open_record, sign_record
from peatnet.records.envelope import signing_input

seeds = st.binary(min_size=32, max_size=32)


@given(seeds)
@settings(deadline=None)
def test_the_same_seed_gives_the_same_peer_id(seed: bytes) -> None:
    ours = KeyPair.from_seed(seed)
    theirs = create_new_key_pair(seed)
    their_id = ID.from_pubkey(theirs.public_key)
    assert str(ours.peer_id) == their_id.to_base58()
    assert ours.peer_id.to_bytes() == their_id.to_bytes()
    assert ours.public.encode() == theirs.public_key.serialize()
    extracted = ID.from_string(str(ours.peer_id)).extract_public_key()
    assert extracted is not None
    assert extracted.to_bytes() == PeerId(their_id.to_base58()).public_key.raw


@given(seeds, st.sampled_from(RecordType), st.integers(0, 2**63 - 1), st.binary(max_size=500))
@settings(deadline=None)
def test_libp2p_accepts_our_envelopes(
    seed: bytes, record_type: RecordType, sequence: int, body: bytes
) -> None:
    record = sign_record(KeyPair.from_seed(seed), record_type, "yolo@1", sequence, body)
    envelope = unmarshal_envelope(record.envelope)
    envelope.validate("peatnet-record")
    assert envelope.payload_type == record_type.payload_type
    assert envelope.raw_payload == pack(k="yolo@1", s=sequence, b=body)
    assert ID.from_pubkey(envelope.public_key).to_base58() == record.publisher
    assert envelope.marshal_envelope() == record.envelope


@given(seeds, st.binary(max_size=500))
@settings(deadline=None)
def test_we_accept_what_libp2p_signs_and_it_is_the_same_to_the_byte(
    seed: bytes, body: bytes
) -> None:
    theirs = create_new_key_pair(seed)
    payload_type, payload = RecordType.COMMAND.payload_type, pack(k="id", s=7, b=body)
    unsigned = make_unsigned("peatnet-record", payload_type, payload)
    assert signing_input(payload_type, payload) == unsigned
    signature = theirs.private_key.sign(unsigned)
    data = Envelope(theirs.public_key, payload_type, payload, signature).marshal_envelope()
    record = sign_record(KeyPair.from_seed(seed), RecordType.COMMAND, "id", 7, body)
    assert data == record.envelope
    assert open_record(data) == record


@pytest.mark.parametrize("domain", ["libp2p-peer-record", "peatnet"])
def test_libp2p_refuses_our_envelopes_in_another_domain(domain: str) -> None:
    with pytest.raises(ValueError, match="Invalid envelope signature"):
        unmarshal_envelope(make().envelope).validate(domain)


def test_the_room_does_not_import_libp2p() -> None:
    code = "import sys, peatnet.records; sys.exit('libp2p' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
