"""What a muxer knows of its streams, kept in step where py-libp2p would not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from libp2p.stream_muxer.yamux.yamux import YamuxStream

from peatnet.net.watched import Watched

if TYPE_CHECKING:
    from collections.abc import Mapping


class Streams(Watched[int, YamuxStream]):
    """The streams that there are.

    Attributes:
        inbound: how many of them the peer has opened.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inbound = 0

    def __setitem__(self, stream_id: int, stream: YamuxStream) -> None:
        """Put a stream here; who opened it never changes."""
        self.pop(stream_id, None)
        super().__setitem__(stream_id, stream)
        self.inbound += not stream.is_initiator

    def __delitem__(self, stream_id: int) -> None:
        """Take a stream away."""
        stream = self[stream_id]
        super().__delitem__(stream_id)
        self.inbound -= not stream.is_initiator


class Events(dict[int, trio.Event]):
    """Those of streams that there are.

    Whoever reads a stream, in py-libp2p, puts another event in the place of the one that woke it, and does not look whether
    the stream has gone with that.
    """

    def __init__(self, streams: Mapping[int, object]) -> None:
        super().__init__()
        self._streams = streams

    def __setitem__(self, stream_id: int, event: trio.Event) -> None:
        """Put an event here, if there is such a stream."""
        if stream_id in self._streams:
            super().__setitem__(stream_id, event)
