"""Loaders that are requests, to a real server."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from support.waiting import until

from peatnet.deploy import requests
from peatnet.deploy.loaders import HttpLoader, LoadJob
from peatnet.deploy.running import run_loader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peatnet.deploy.loaders import LoadResult

JOB = LoadJob("my model", "1.2", Path("/d/m.gguf"), Path("/d/m.json"))


class Handler(BaseHTTPRequestHandler):
    """Does as the path says, and remembers what it was asked."""

    server: Server

    def handle_any(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        body = self.rfile.read(length)
        self.server.seen.append((self.command, self.path, dict(self.headers), body))
        word, _, rest = self.path[1:].partition("/")
        if word == "silent":
            self.server.ended.wait(60)
            return
        if word == "hang-up":
            return
        status = int(word) if word.isdigit() else 200
        self.send_response(status)
        if status // 100 == 3:
            self.send_header("Location", "/200/elsewhere")
        self.end_headers()
        if word == "endless":
            while not self.server.ended.is_set():
                try:
                    self.wfile.write(b"x" * 65536)
                except OSError:
                    return
        self.wfile.write(b"first line\nabout " + rest.encode())
        if word == "trickle":
            self.wfile.flush()
            self.server.ended.wait(60)

    do_GET = do_POST = do_PUT = handle_any  # noqa: N815  # http.server's names

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.ended = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def running() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.ended.set()
            server.shutdown()
            thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as server:
        yield server


async def load(url: str, limit: float = 60.0, *, job: LoadJob = JOB, **others: Any) -> LoadResult:
    loader = HttpLoader(url, timeout_s=limit, **others)
    return await run_loader(loader, job, cwd=Path("/"), token="t")


async def test_a_request(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nobody there would answer: what is asked on this machine is not asked through a proxy.
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    body = {"path": "{model_path}", "n": [1, {"was": "{previous_path}"}]}
    result = await load(
        f"{server.url}/200/{{model_id}}?v={{model_version}}", body=body, headers={"X-Key": "k"}
    )
    assert result.loaded
    assert result.lines == ("first line", "about my%20model?v=1.2")
    ((method, path, headers, sent),) = server.seen
    assert (method, path) == ("POST", "/200/my%20model?v=1.2")
    assert json.loads(sent) == {"path": "/d/m.gguf", "n": [1, {"was": ""}]}
    assert (headers["Content-Type"], headers["X-Key"]) == ("application/json", "k")


@pytest.mark.parametrize(("method", "body"), [("GET", None), ("PUT", {}), ("POST", None)])
async def test_methods(server: Server, method: str, body: dict[str, Any] | None) -> None:
    assert (await load(f"{server.url}/204/", method=method, body=body)).loaded
    ((seen, _, _, sent),) = server.seen
    assert seen == method
    assert sent == (b"" if body is None else b"{}")


@pytest.mark.parametrize("status", [302, 307, 400, 404, 500, 503])
async def test_an_answer_that_is_a_refusal(server: Server, status: int) -> None:
    result = await load(f"{server.url}/{status}/{{model_id}}?key=secret")
    assert result.reason == f"POST {server.url}/{status}/{{model_id}} answered {status}"
    assert result.lines[0] == "first line"
    assert len(server.seen) == 1  # a redirect is an answer, too


async def test_nobody_there(server: Server) -> None:
    with running() as other:
        url = other.url
    result = await load(f"{url}/x")
    assert result.reason is not None
    assert result.reason.startswith(f"POST {url}/x failed: ")


async def test_a_server_that_hangs_up(server: Server) -> None:
    result = await load(f"{server.url}/hang-up/")
    assert result.reason is not None
    assert "failed: " in result.reason


@pytest.mark.parametrize("way", ["silent", "trickle"])
async def test_a_server_that_takes_too_long(server: Server, way: str) -> None:
    result = await load(f"{server.url}/{way}/", limit=0.5)
    assert result.reason == f"POST {server.url}/{way}/ took longer than 0.5 s"


async def test_an_answer_without_end(server: Server) -> None:
    result = await load(f"{server.url}/endless/")
    assert result.reason is not None
    assert "answered with more than" in result.reason
    assert sum(map(len, result.lines)) < 65536


async def test_a_request_that_is_called_off(server: Server) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load, f"{server.url}/silent/")
        await until(lambda: server.seen)
        nursery.cancel_scope.cancel()


async def test_https_wants_a_certificate(server: Server) -> None:
    result = await load(server.url.replace("http:", "https:"))
    assert result.reason is not None
    assert "failed: " in result.reason


@pytest.fixture
def no_authorities(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The operator names a file of certificate authorities that is not there."""
    requests._authorities.cache_clear()
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/authorities.pem")
    yield
    requests._authorities.cache_clear()


async def test_http_needs_no_certificate_authorities(server: Server, no_authorities: None) -> None:
    assert (await load(f"{server.url}/200/")).loaded


async def test_certificate_authorities_that_cannot_be_read(
    server: Server, no_authorities: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.url.replace("http:", "https:")
    result = await load(url)
    assert result.reason is not None
    assert "certificate authorities cannot be read: No such file or directory" in result.reason
    monkeypatch.delenv("SSL_CERT_FILE")  # mended: looked for again
    result = await load(url)
    assert result.reason is not None
    assert "authorities cannot be read" not in result.reason


@pytest.mark.parametrize(
    "others",
    [{"body": {"path": "{model_path}"}}, {"headers": {"X-Path": "\udcff"}}],
    ids=["body", "headers"],
)
async def test_texts_that_are_not_utf_8(server: Server, others: dict[str, Any]) -> None:
    job = LoadJob("m", "1", Path("/d/\udcff/m.gguf"))
    for path in ("200/", "200/{model_path}"):
        result = await load(f"{server.url}/{path}", job=job, **others)
        assert result.reason is not None
        assert "codec can't encode character" in result.reason
        result.reason.encode()
    assert server.seen == []
