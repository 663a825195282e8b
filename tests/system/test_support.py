"""The helpers themselves: a server or a proxy that does not misbehave as told would prove nothing."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import httpx
import pytest
from support.files import blake3_of, chunks_on_disk, make_model
from support.proxy import Proxy
from support.waiting import wait_until
from support.web import serving

if TYPE_CHECKING:
    from pathlib import Path

BODY = bytes(range(256)) * 1024


def test_server_with_ranges() -> None:
    with serving(BODY) as server, httpx.Client() as client:
        whole = client.get(server.url)
        part = client.get(server.url, headers={"Range": "bytes=1000-1999"})
        changed = client.get(server.url, headers={"Range": "bytes=5-9", "If-Range": '"v0"'})
        head = client.head(server.url)
    assert (whole.status_code, whole.content) == (200, BODY)
    assert (part.status_code, part.content) == (206, BODY[1000:2000])
    assert part.headers["content-range"] == f"bytes 1000-1999/{len(BODY)}"
    assert (changed.status_code, changed.content) == (200, BODY)
    assert (head.content, head.headers["content-length"]) == (b"", str(len(BODY)))
    assert [request.sent for request in server.requests] == [len(BODY), 1000, len(BODY), 0]


def test_server_without_ranges() -> None:
    with serving(BODY, ranges=False) as server:
        got = httpx.get(server.url, headers={"Range": "bytes=1000-1999"})
    assert (got.status_code, got.content) == (200, BODY)


def test_server_that_stops_short_and_one_that_runs_over() -> None:
    with (
        serving(BODY, truncate_at=70_000) as server,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        httpx.get(server.url)
    assert server.bytes_sent == 70_000
    with serving(BODY, chunked=True, status=404) as server:
        got = httpx.get(server.url)
    assert (got.status_code, got.content) == (404, BODY)


def test_server_that_stalls() -> None:
    with serving(BODY, stall_at=100_000) as server:
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(server.url, timeout=0.5)
        assert server.bytes_sent == 100_000
        server.resume()
        assert httpx.get(server.url).content == BODY


def test_proxy_forwards_limits_and_cuts() -> None:
    with serving(BODY) as server, Proxy(int(server.url.split(":")[2].split("/")[0])) as proxy:
        url = f"http://127.0.0.1:{proxy.port}/"
        assert httpx.get(url).content == BODY
        assert proxy.from_target > len(BODY)
        proxy.rate = 1_000_000
        began = time.monotonic()
        assert httpx.get(url).content == BODY
        assert time.monotonic() - began >= 0.2  # 262,144 bytes at 1 MB/s, and never faster
        with socket.create_connection(("127.0.0.1", proxy.port)) as idle:
            wait_until(lambda: proxy.connections == 3)
            proxy.cut()
            assert idle.recv(1) == b""


def test_wait_until_says_what_it_waited_for() -> None:
    with pytest.raises(AssertionError, match="the moon"):
        wait_until(lambda: 0, 0.01, what="the moon")


def test_chunks_on_disk(tmp_path: Path) -> None:
    whole = make_model(tmp_path / "a", 10_000)
    other = bytearray(whole.read_bytes())
    other[2500] ^= 1
    (tmp_path / "b").write_bytes(other[:9000])
    assert chunks_on_disk(tmp_path / "b", whole, 1000) == {0, 1, 3, 4, 5, 6, 7, 8}
    assert blake3_of(whole) != blake3_of(tmp_path / "b")
