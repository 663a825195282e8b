"""An HTTP file server that can be slow, stall, stop short, run over, lie, and that counts."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

BLOCK = 64 * 1024


@dataclass
class Behavior:
    """What the server does with its file. Change it while the server runs, if you like."""

    ranges: bool = True
    etag: str | None = '"v1"'
    status: int | None = None  # instead of 200 and 206
    content_type: str = "application/octet-stream"
    content_encoding: str | None = None
    location: str | None = None  # with a 3xx status
    rate: float | None = None  # bytes a second and connection
    truncate_at: int | None = None  # a response ends at this offset of the file, without a word
    stall_at: int | None = None  # a response waits at this offset of the file until `resume`
    declared: int | None = None  # the size it claims, instead of the real one
    chunked: bool = False  # no Content-Length at all (Transfer-Encoding: chunked)


@dataclass
class Request:
    """One request as the server saw it."""

    method: str
    path: str
    headers: dict[str, str]
    status: int = 0
    sent: int = 0
    first: int = 0


@dataclass
class _State:
    body: bytes
    behavior: Behavior
    requests: list[Request] = field(default_factory=list)
    resumed: threading.Event = field(default_factory=threading.Event)
    closed: threading.Event = field(default_factory=threading.Event)


class FileServer:
    """Serves one byte string at every path, from threads of this process. A context manager."""

    def __init__(self, body: bytes, **behavior: Any) -> None:
        self._state = _State(body, Behavior(**behavior))
        state = self._state

        class Handler(_Handler):
            shared = state

        self._server = _Quiet(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/models/model.safetensors"

    @property
    def behavior(self) -> Behavior:
        return self._state.behavior

    def become(self, body: bytes | None = None, **behavior: Any) -> None:
        """Changes what is served and how, and forgets the requests so far."""
        self._state.body = self._state.body if body is None else body
        self._state.behavior = Behavior(**behavior)
        self._state.requests.clear()
        self._state.resumed.set()  # whoever still waits from before
        self._state.resumed = threading.Event()

    @property
    def requests(self) -> list[Request]:
        return list(self._state.requests)

    @property
    def bytes_sent(self) -> int:
        """Bytes of bodies, over all responses."""
        return sum(request.sent for request in self.requests)

    def resume(self) -> None:
        """Lets stalled responses go on, now and later."""
        self._state.resumed.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._state.closed.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    shared: _State

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        """Silent: the requests are recorded."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        behavior, data = self.shared.behavior, self.shared.body
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers)
        self.shared.requests.append(request)
        first, last = self._wanted(headers, behavior, len(data))
        size = behavior.declared if behavior.declared is not None else len(data)
        partial = behavior.ranges and "range" in headers and first is not None
        request.status = behavior.status or (206 if partial else 200)
        request.first = first or 0
        self.send_response(request.status)
        if behavior.location is not None:
            self.send_header("Location", behavior.location)
        self.send_header("Content-Type", behavior.content_type)
        if behavior.content_encoding is not None:
            self.send_header("Content-Encoding", behavior.content_encoding)
        if behavior.etag is not None:
            self.send_header("ETag", behavior.etag)
        if behavior.ranges:
            self.send_header("Accept-Ranges", "bytes")
        if partial and request.status == 206:
            self.send_header("Content-Range", f"bytes {request.first}-{last}/{size}")
            length = last - request.first + 1
        else:
            length = size
        if behavior.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if body:
            with contextlib.suppress(OSError):
                self._send(request, data, request.first, last + 1)
                return
        elif not behavior.chunked:
            return
        self.close_connection = True

    def _wait(self, resumed: threading.Event) -> None:
        while not resumed.is_set() and not self.shared.closed.is_set():
            resumed.wait(0.1)

    @staticmethod
    def _wanted(headers: dict[str, str], behavior: Behavior, size: int) -> tuple[int | None, int]:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        stale = "if-range" in headers and headers["if-range"] != behavior.etag
        if match is None or not behavior.ranges or stale or int(match[1]) >= size:
            return None, size - 1
        return int(match[1]), min(int(match[2] or size - 1), size - 1)

    def _send(self, request: Request, data: bytes, start: int, end: int) -> None:
        behavior = self.shared.behavior
        began, position = time.monotonic(), start
        while position < end:
            if self.shared.closed.is_set():
                self.close_connection = True
                return
            stop = min(position + BLOCK, end)
            for mark in (behavior.truncate_at, behavior.stall_at):
                if mark is not None and position < mark:
                    stop = min(stop, mark)
            if behavior.truncate_at is not None and position >= behavior.truncate_at:
                self.close_connection = True
                return
            if behavior.stall_at is not None and position >= behavior.stall_at:
                self._wait(self.shared.resumed)
            block = data[position:stop]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block) if behavior.chunked else block)
            request.sent += len(block)
            position = stop
            if behavior.rate is not None:
                ahead = (position - start) / behavior.rate - (time.monotonic() - began)
                self.shared.closed.wait(max(0.0, ahead))
        if behavior.chunked:
            self.wfile.write(b"0\r\n\r\n")
        elif behavior.declared is not None:
            self.close_connection = True


@contextlib.contextmanager
def serving(body: bytes, **behavior: Any) -> Iterator[FileServer]:
    """A running `FileServer` for as long as the block lasts."""
    with FileServer(body, **behavior) as server:
        yield server
