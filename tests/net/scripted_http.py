"""An HTTP server on loopback whose every answer is decided by a function of the test."""

from __future__ import annotations

import contextlib
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"


@dataclass
class Ask:
    """A request: its path, its headers in lower case, its number from 0."""

    path: str
    headers: dict[str, str]
    number: int

    @property
    def range(self) -> tuple[int, int] | None:
        """The first and the last byte asked for."""
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        return (int(match[1]), int(match[2])) if match else None


@dataclass
class Answer:
    """What the server says.

    Attributes:
        status: the status code.
        body: the bytes of the body.
        headers: sent as they are; Content-Length is added unless it is given, or ``chunked``.
        chunked: Transfer-Encoding: chunked.
        send: how many bytes of the body are really sent before the connection is cut; None for all.
        stall: after those, nothing happens until the server is closed, instead of a cut.
        end: what follows a chunked body, in one piece with its last bytes.
        piece: bytes of the body in each chunk of a chunked one.
        early: answers 103 that come before this one.
        close: end the connection after the body, so that its end marks the body's where no length is given.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    chunked: bool = False
    send: int | None = None
    stall: bool = False
    end: bytes = b"0\r\n\r\n"
    piece: int = 65536
    early: int = 0
    close: bool = False


def whole(body: bytes, **more: Any) -> Answer:
    return Answer(200, body, **more)


def part(ask: Ask, body: bytes, etag: str | None = None, **more: Any) -> Answer:
    """What a server that knows ranges says."""
    assert ask.range is not None
    first, last = ask.range
    headers = {"Content-Range": f"bytes {first}-{last}/{len(body)}"}
    if etag is not None:
        headers["ETag"] = etag
    return Answer(206, body[first : last + 1], headers | more.pop("headers", {}), **more)


class ScriptedServer:
    """Serves what ``script`` answers, from threads of this process; a context manager."""

    def __init__(
        self, script: Callable[[Ask], Answer], *, tls: ssl.SSLContext | None = None
    ) -> None:
        self.asks: list[Ask] = []
        self.script = script
        self.connections = 0
        self.open_now = 0
        self.most_open = 0
        self.lock = threading.Condition()
        self._sent = 0
        self._sending = 0
        self.closed = threading.Event()
        outer = self

        class Handler(_Handler):
            owner = outer

        self._server = _Quiet(("127.0.0.1", 0), Handler)
        self._scheme = "http"
        if tls is not None:
            self._scheme = "https"
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )

    @property
    def sent(self) -> int:
        """Bytes of bodies; threads that are still at it are waited for, as far as they do not stall."""
        with self.lock:
            assert self.lock.wait_for(lambda: not self._sending, 10)
            return self._sent

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """A body is on its way."""
        with self.lock:
            self._sending += 1
        try:
            yield
        finally:
            with self.lock:
                self._sending -= 1
                self.lock.notify_all()

    def count(self, size: int) -> None:
        """So much of it has gone out."""
        with self.lock:
            self._sent += size

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}/model.gguf"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


def _framed(data: bytes, size: int) -> bytes:
    pieces = (data[start : start + size] for start in range(0, len(data), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: ScriptedServer

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Silent."""

    def handle(self) -> None:
        owner = self.owner
        with owner.lock:
            owner.connections += 1
            owner.open_now += 1
            owner.most_open = max(owner.most_open, owner.open_now)
        try:
            with contextlib.suppress(OSError):
                super().handle()
        finally:
            with owner.lock:
                owner.open_now -= 1

    def do_GET(self) -> None:
        owner = self.owner
        with owner.lock:
            headers = {name.lower(): value for name, value in self.headers.items()}
            ask = Ask(self.path, headers, len(owner.asks))
            owner.asks.append(ask)
        answer = owner.script(ask)
        self.wfile.write(EARLY * answer.early)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif "Content-Length" not in answer.headers and not answer.close:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        body = answer.body if answer.send is None else answer.body[: answer.send]
        with owner.sending():
            for start in range(0, len(body), 65536):
                piece = body[start : start + 65536]
                last = start + len(piece) == len(answer.body)
                end = answer.end if last and answer.chunked else b""
                self.wfile.write((_framed(piece, answer.piece) if answer.chunked else piece) + end)
                owner.count(len(piece))
        if answer.send is not None:
            self.wfile.flush()
            if answer.stall:
                owner.closed.wait()
            self.close_connection = True
        elif answer.chunked and not body:
            self.wfile.write(answer.end)
        if answer.close:
            self.close_connection = True
