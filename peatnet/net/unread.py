"""What has come on streams and was not read yet: counted, of each connection and of a whole node, and bounded.

A peer may send as much as its windows allow without anybody reading: with 64 streams that is 16 MiB a connection, and
with all connections of a node 4 GiB. So once MAX_UNREAD bytes wait in all, nothing more is read of a connection that has more
than its share of them, until its own streams have been read or others' have. What a connection may have in any case is
enough for requests, answers and gossip, and for a download to go on, as what comes for that is read at once. So there are never more
than MAX_UNREAD, and a share for each connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from peatnet.net.watched import Watched

if TYPE_CHECKING:
    from collections.abc import Callable

# In bytes. All shares together, of as many connections as there may be, are as much again.
MAX_UNREAD = 32 * 1024 * 1024
SHARE = 128 * 1024
# How often a connection that is held back looks whether others have made room, in seconds; of its own it hears at once.
LOOK_FOR_ROOM = 0.25


class NodeUnread:
    """Of all connections of a node.

    Attributes:
        held: bytes that wait to be read, and of frames that are coming.
    """

    def __init__(self) -> None:
        self.held = 0


class Unread(Watched[int, "_Buffer"]):
    """The buffers of one connection's streams.

    Args:
        node: where they are counted as well.

    Attributes:
        held: bytes in all of them, and of the frame that is coming.
    """

    def __init__(self, node: NodeUnread) -> None:
        super().__init__()
        self.held = 0
        self._node = node
        self._waiting: trio.Event | None = None

    def __setitem__(self, stream_id: int, buffer: bytes | bytearray) -> None:
        """Put a buffer here; a copy of it that is counted."""
        self.pop(stream_id, None)
        super().__setitem__(stream_id, _Buffer(buffer, self.count))

    def __delitem__(self, stream_id: int) -> None:
        """Take a buffer away. Whoever has it still may go on reading it."""
        buffer = self[stream_id]
        super().__delitem__(stream_id)
        buffer.leave()

    def count(self, more: int) -> None:
        """There are so many bytes more, or fewer."""
        self.held += more
        self._node.held += more
        if self._waiting is not None:
            self._waiting.set()

    async def change(self) -> None:
        """Wait until some of this has been read, or LOOK_FOR_ROOM seconds. For one task at a time."""
        self._waiting = trio.Event()
        with trio.move_on_after(LOOK_FOR_ROOM):
            await self._waiting.wait()
        self._waiting = None

    def is_over(self, more: int) -> bool:
        """Whether so many bytes more are to wait."""
        return self.held + more > SHARE and self._node.held + more > MAX_UNREAD


class _Buffer(bytearray):
    """Tells how it grows and shrinks, as long as it is one of those that count."""

    def __init__(self, data: bytes | bytearray, count: Callable[[int], None]) -> None:
        super().__init__(data)
        self._count: Callable[[int], None] | None = count
        count(len(data))

    def leave(self) -> None:
        if self._count is not None:
            self._count(-len(self))
            self._count = None

    # What py-libp2p does with it. Without `super`, which takes as long as the rest: this is the way of each frame.

    def extend(self, data: Any) -> None:
        bytearray.extend(self, data)
        if self._count is not None:
            self._count(len(data))

    def clear(self) -> None:
        if self._count is not None:
            self._count(-len(self))
        bytearray.clear(self)

    def __delitem__(self, key: Any) -> None:
        before = len(self)
        bytearray.__delitem__(self, key)
        if self._count is not None:
            self._count(len(self) - before)
