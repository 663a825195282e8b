"""No peer at all: a model comes from its download_url, or a clear error and nothing else does."""

from __future__ import annotations

import filecmp
import shutil
import signal
from typing import TYPE_CHECKING, Any

import pytest
from support.files import MIB, blake3_of, chunks_on_disk, make_model
from support.nodes import Node, finish, peatnet
from support.parameters import mostly_slow
from support.waiting import wait_until
from support.web import FileServer

from peatnet.errors import HttpSourceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = 6 * MIB + 777


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "model.safetensors", SIZE)


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[FileServer]:
    with FileServer(model.read_bytes()) as running:
        yield running


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, model: Path, server: FileServer) -> Path:
    """A data directory that knows the model and where it can be had, and has none of its bytes."""
    data_dir = tmp_path_factory.mktemp("template") / "node"
    published = peatnet(data_dir, "publish", model, "--id", "m", "--url", server.url, "--json")
    assert published.json()["download_url"] == server.url
    peatnet(data_dir, "rm", "m", "--force", "--json").json()
    return data_dir


@pytest.fixture
def node(template: Path, tmp_path: Path, model: Path, server: FileServer) -> Node:
    """A fresh copy of the template, no process; the server well behaved again."""
    shutil.copytree(template, tmp_path / "node")
    server.become(model.read_bytes())
    return Node("node", tmp_path / "node", tmp_path / "logs")


def assert_nothing_ready(node: Node, model: Path) -> None:
    (view,) = node.json("models")
    assert view["status"] not in {"ready", "loaded"}
    assert view["local_path"] is None
    assert not node.blob_file(blake3_of(model)).exists()
    assert not list((node.data_dir / "models").rglob("*.safetensors"))


@pytest.mark.parametrize("ranges", [True, False])
def test_with_and_without_ranges(
    node: Node, server: FileServer, model: Path, tmp_path: Path, *, ranges: bool
) -> None:
    server.become(ranges=ranges)
    got = node.json("get", "m", "--source", "http", "--out", tmp_path / "out")
    assert got["bytes_by_source"] == {f"http:{server.url.split('/')[2]}": SIZE}
    assert filecmp.cmp(tmp_path / "out", model, shallow=False)
    assert server.bytes_sent == SIZE
    assert node.json("models")[0]["status"] == "ready"


def test_without_peers_any_source_means_http(node: Node, server: FileServer, model: Path) -> None:
    node.configure(http_fallback_after_s=0.2)
    got = node.json("get", "m")
    assert filecmp.cmp(got["path"], model, shallow=False)
    assert server.bytes_sent == SIZE


@pytest.mark.parametrize("ranges", [True, False])
def test_a_killed_get_resumes(node: Node, server: FileServer, model: Path, *, ranges: bool) -> None:
    server.become(ranges=ranges, stall_at=4 * MIB)
    get = node.start("get", "m", "--source", "http")
    partials = node.data_dir / "partial"

    def held() -> set[int]:
        files = [path for path in partials.glob("*") if path.stat().st_size >= 3 * MIB]
        return set().union(*(chunks_on_disk(path, model) for path in files))

    wait_until(lambda: len(held()) >= 3, what="3 chunks on disk")
    get.kill()
    get.communicate()
    kept = len(held())
    assert_nothing_ready(node, model)
    server.become(ranges=ranges)
    got = node.json("get", "m", "--source", "http")
    assert filecmp.cmp(got["path"], model, shallow=False)
    if ranges:
        assert server.bytes_sent <= SIZE - kept * MIB
    else:
        assert server.bytes_sent == SIZE


def changed(body: bytes) -> bytes:
    return body[:-100] + bytes([body[-100] ^ 1]) + body[-99:]


MISBEHAVIOR: dict[str, dict[str, Any]] = {
    "404": {"status": 404, "content_type": "text/html"},
    "500": {"status": 500},
    "html": {"content_type": "text/html; charset=utf-8"},
    "truncated": {"truncate_at": 3 * MIB},
    "truncated-stream": {"truncate_at": 3 * MIB, "ranges": False},
    "longer": {"declared": SIZE + 1},
    "longer-stream": {"declared": SIZE + 1, "ranges": False},
    "shorter": {"declared": SIZE - 1},
    "longer-unannounced": {"ranges": False, "chunked": True, "more": 1},
    "shorter-unannounced": {"ranges": False, "chunked": True, "more": -1},
    "encoded": {"content_encoding": "gzip"},
    "redirect-to-ftp": {"status": 302, "location": "ftp://127.0.0.1/x"},
    "redirect-to-file": {"status": 302, "location": "file:///etc/passwd"},
    "redirect-loop": {"status": 302, "location": "/models/again"},
}


@pytest.mark.parametrize(
    "behavior",
    mostly_slow(MISBEHAVIOR, "500", "html", "truncated", "longer-unannounced", "redirect-to-file"),
)
def test_a_server_that_misbehaves(
    node: Node, server: FileServer, model: Path, behavior: dict[str, Any]
) -> None:
    body = model.read_bytes()
    more = behavior.get("more", 0)
    body = body + bytes(more) if more > 0 else body[: SIZE + more]
    server.become(body, **{key: value for key, value in behavior.items() if key != "more"})
    ran = node.run("get", "m", "--source", "http")
    ran.failed(HttpSourceError)
    assert_nothing_ready(node, model)
    # Not a byte more than the manifest allows was taken from a connection, whatever was on offer.
    assert server.bytes_sent < 8 * SIZE


def test_another_file_of_the_same_size_is_refused(
    node: Node, server: FileServer, model: Path
) -> None:
    server.become(changed(model.read_bytes()))
    ran = node.run("get", "m", "--source", "http")
    assert ran.code in {15, 20}, ran
    assert "error:" in ran.err
    assert_nothing_ready(node, model)
    # Nothing is lost either: once the right file is there, it comes.
    server.become(model.read_bytes())
    got = node.json("get", "m", "--source", "http")
    assert filecmp.cmp(got["path"], model, shallow=False)


def test_a_redirect_is_followed(node: Node, server: FileServer, model: Path) -> None:
    with FileServer(b"", status=302, location=server.url) as door:
        published = peatnet(
            node.data_dir,
            "publish",
            model,
            "--id",
            "m",
            "--version",
            "2",
            "--url",
            door.url,
            "--json",
        ).json()
        assert published["version"] == "2"
        peatnet(node.data_dir, "rm", "m@2", "--force", "--json").json()
        got = node.json("get", "m@2", "--source", "http")
    assert filecmp.cmp(got["path"], model, shallow=False)


def test_nobody_listens(node: Node, server: FileServer, model: Path) -> None:
    with FileServer(b"") as gone:
        url = gone.url
    peatnet(
        node.data_dir, "publish", model, "--id", "m", "--version", "3", "--url", url, "--json"
    ).json()
    peatnet(node.data_dir, "rm", "m@3", "--force", "--json").json()
    node.run("get", "m@3", "--source", "http").failed(HttpSourceError)


def test_a_get_that_is_interrupted_exits_with_130(
    node: Node, server: FileServer, model: Path
) -> None:
    server.become(stall_at=4 * MIB)
    get = node.start("get", "m", "--source", "http")
    wait_until(lambda: server.bytes_sent > MIB)
    get.send_signal(signal.SIGINT)
    ran = finish(get)
    assert ran.code == 130
    assert "Traceback" not in ran.err
    assert_nothing_ready(node, model)
