"""Which muxer a connection gets, and whether it gets one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from libp2p.protocol_muxer.exceptions import MultiselectError
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID

from peatnet.net.muxer import Muxer
from peatnet.net.tcp import party
from peatnet.net.unread import NodeUnread

if TYPE_CHECKING:
    from collections.abc import Callable

    from libp2p.abc import IMuxedConn, ISecureConn
    from libp2p.custom_types import TProtocol
    from libp2p.peer.id import ID

    from peatnet.net.effort import Efforts


class MuxerSelector(MuxerMultistream):
    """Agrees on yamux and makes guarded connections; refuses peers before anything of theirs is handled.

    Args:
        admits: whether connections with this peer are wanted.
        on_violation: called with the peer and what it did.
        efforts: what each peer may make us do.
    """

    def __init__(
        self,
        admits: Callable[[str], bool],
        on_violation: Callable[[str, str], None],
        efforts: Efforts,
    ) -> None:
        super().__init__({PROTOCOL_ID: Muxer})  # type: ignore[dict-item]  # TProtocol is a NewType of str
        self._admits = admits
        self._on_violation = on_violation
        self._efforts = efforts
        self._unread = NodeUnread()

    async def new_conn(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        """Make the muxed connection. Raises MultiselectError for a peer that is not admitted."""
        name = str(peer_id)
        if not self._admits(name):
            raise MultiselectError(f"{name} is not admitted")
        if (remote := conn.get_remote_address()) is not None:
            self._efforts.met(name, party(remote[0]))
        protocol: TProtocol
        protocol, _ = await self._selector.select(conn, conn.is_initiator, self.negotiate_timeout)
        muxer = Muxer(
            conn,
            peer_id,
            lambda what: self._on_violation(name, what),
            self._efforts.of(name),
            self._unread,
        )
        return self._annotate_connection(muxer, conn, protocol)
