"""A TCP proxy between two nodes that limits the rate, counts bytes, and can cut the line."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

BLOCK = 32 * 1024


class Proxy:
    """Listens on a free port of the loopback and forwards to a port there. A context manager.

    Args:
        port: where connections are forwarded to.
        rate: bytes a second, over all connections and for each direction; None for no limit.

    Attributes:
        rate: may be changed at any time.
        to_target, from_target: bytes forwarded so far.
        connections: how many were accepted so far.
    """

    def __init__(self, port: int, rate: float | None = None) -> None:
        self.target = port
        self.rate = rate
        self.to_target = 0
        self.from_target = 0
        self.connections = 0
        self._closed = False
        self._lock = threading.Lock()
        self._free_at = {"to": 0.0, "from": 0.0}
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)  # closing a socket does not wake a thread in accept()

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def addr(self, node_addr: str) -> str:
        """A node's multiaddr, by way of this proxy."""
        head, _, tail = node_addr.partition("/tcp/")
        port, _, rest = tail.partition("/")
        assert port == str(self.target)
        return f"{head}/tcp/{self.port}/{rest}"

    def cut(self) -> None:
        """Drops all connections; new ones are accepted."""
        with self._lock:
            sockets = list(self._sockets)
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed = True
        self.cut()
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def _start(self, target: object, *args: object) -> None:
        assert callable(target)
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listener.accept()
            except TimeoutError:
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self.target), timeout=5)
            except OSError:  # the node behind is gone: the dialer learns it as it would without us
                near.close()
                continue
            for sock in (near, far):
                sock.settimeout(None)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # Small buffers: what a limited line holds in flight must stay small beside a chunk.
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BLOCK)
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BLOCK)
            with self._lock:
                self._sockets |= {near, far}
                self.connections += 1
            self._start(self._join, near, far)

    def _join(self, near: socket.socket, far: socket.socket) -> None:
        """Runs one connection to its end, then closes both sockets."""
        other = threading.Thread(target=self._pump, args=(far, near, "from"), daemon=True)
        other.start()
        self._pump(near, far, "to")
        other.join()
        with self._lock:
            self._sockets -= {near, far}
        near.close()
        far.close()

    def _pump(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        with contextlib.suppress(OSError):
            while not self._closed and (data := source.recv(BLOCK)):
                self._pace(way, len(data))
                sink.sendall(data)
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _pace(self, way: str, count: int) -> None:
        with self._lock:
            if way == "to":
                self.to_target += count
            else:
                self.from_target += count
            if self.rate is None:
                return
            now = time.monotonic()
            start = max(now, self._free_at[way])
            self._free_at[way] = start + count / self.rate
            wait = self._free_at[way] - now
        time.sleep(wait)
