"""Bulk lanes: TCP and TLS 1.3 beside the libp2p muxer, for chunk bytes, with a loop in a worker thread at each end.

A lane is opened with a ticket that the holder gave over libp2p, so it belongs to the same two peer ids; it speaks what
``/peatnet/blob/1`` speaks. docs/protocol.md has it in full.
"""

from peatnet.net.lanes.carriers import carry
from peatnet.net.lanes.client import LaneClient
from peatnet.net.lanes.count import is_far
from peatnet.net.lanes.opening import LANE_PROTOCOL, Lanes, open_lanes

__all__ = ["LANE_PROTOCOL", "LaneClient", "Lanes", "carry", "is_far", "open_lanes"]
