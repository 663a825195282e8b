"""Signed records and the catalogue that merges them.

Envelopes in the form of libp2p's RFC 0002, peer ids, Ed25519 keys, and the rule by which the newest record of
a slot wins. Pure logic: no sockets, no files, no clock, and no libp2p.
"""

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
    "Catalogue",
    "CatalogueLimits",
    "KeyPair",
    "Outcome",
    "PeerId",
    "PublicKey",
    "Record",
    "RecordType",
    "SlotSummary",
    "open_record",
    "pack_summaries",
    "sign_record",
    "slot_of",
    "unpack_summaries",
]
