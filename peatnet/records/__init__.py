"""Signed records, and the catalogue that merges them.

Envelopes in the form of libp2p's RFC 0002, peer ids and Ed25519 keys, and the rule by which the newest record
of a slot wins. Pure logic: no sockets, no files, no clock, and no libp2p.
"""

from peatnet.records.bodies import (
    Cancellation,
    Withdrawal,
    check_body,
    command_key,
    decode_cancellation,
    decode_command,
    decode_manifest,
    decode_withdrawal,
)
from peatnet.records.catalogue import Bound, Catalogue, CatalogueLimits, Outcome
from peatnet.records.envelope import MAX_ENVELOPE
from peatnet.records.keys import KeyPair, PeerId, PublicKey
from peatnet.records.record import (
    MAX_KEY,
    MAX_SEQUENCE,
    Record,
    RecordType,
    open_record,
    sign_record,
    slot_of,
)
from peatnet.records.summary import (
    SUMMARY_BYTES,
    SlotSummary,
    pack_summaries,
    unpack_summaries,
)

__all__ = [
    "MAX_ENVELOPE",
    "MAX_KEY",
    "MAX_SEQUENCE",
    "SUMMARY_BYTES",
    "Bound",
    "Cancellation",
    "Catalogue",
    "CatalogueLimits",
    "KeyPair",
    "Outcome",
    "PeerId",
    "PublicKey",
    "Record",
    "RecordType",
    "SlotSummary",
    "Withdrawal",
    "check_body",
    "command_key",
    "decode_cancellation",
    "decode_command",
    "decode_manifest",
    "decode_withdrawal",
    "open_record",
    "pack_summaries",
    "sign_record",
    "slot_of",
    "unpack_summaries",
]
