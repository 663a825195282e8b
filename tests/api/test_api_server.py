"""Server and client of the control API, joined by a real socket; the verbs here are made for the tests."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import httpx
import pytest
import trio
import trio.testing

from peatnet.api import client as client_module
from peatnet.api import server as server_module
from peatnet.api.client import ControlClient
from peatnet.api.server import MAX_REQUEST_BYTES, serve_control
from peatnet.api.verbs import VERBS, Emit, NoParams, ReferenceParams, Verb, error_line
from peatnet.errors import NodeUnreachable, NotFound, PeatnetError, UsageError, error_classes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from peatnet.node import Node

NODE = cast("Node", object())  # the verbs of these tests ask nothing of it


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[ControlClient]:
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, NODE, path)
        yield ControlClient(path)
        nursery.cancel_scope.cancel()


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Adds a verb to the table for the time of a test."""

    def add(name: str, run: Any, params: Any = NoParams) -> None:
        monkeypatch.setitem(VERBS, name, Verb(params, run))

    return add


async def ask(client: ControlClient, *args: Any) -> Any:
    return await trio.to_thread.run_sync(lambda: client.call(*args), abandon_on_cancel=True)  # type: ignore[call-arg]  # trio-typing describes an older trio


async def echo(_node: Node, params: ReferenceParams, _emit: Emit) -> Any:
    return {"echo": params.reference}


async def test_parameters_go_in_a_result_comes_out(
    tmp_path: Path, verb: Callable[..., None]
) -> None:
    verb("echo", echo, ReferenceParams)
    async with serving(tmp_path / "s") as client:
        # U+2028 is a line end to some; the answer is longer than any single read.
        for text in ("plain", "ä\u2028\n\x85", "x" * 300):
            assert await ask(client, "echo", {"reference": text}) == {"echo": text}
    assert not (tmp_path / "s").exists()


async def test_a_long_answer_arrives_whole(tmp_path: Path, verb: Callable[..., None]) -> None:
    rows = [{"row": i, "text": "x" * 100} for i in range(30_000)]

    async def many(_node: Node, _params: NoParams, _emit: Emit) -> Any:
        return rows

    verb("many", many)
    async with serving(tmp_path / "s") as client:
        assert await ask(client, "many") == rows


async def test_every_error_arrives_as_what_it_was(
    tmp_path: Path, verb: Callable[..., None]
) -> None:
    async def fail(_node: Node, params: ReferenceParams, _emit: Emit) -> Any:
        raise error_classes()[params.reference]("what", hint="do")

    verb("fail", fail, ReferenceParams)
    async with serving(tmp_path / "s") as client:
        for slug, cls in error_classes().items():
            with pytest.raises(PeatnetError, match="what") as caught:
                await ask(client, "fail", {"reference": slug})
            assert type(caught.value) is cls
            assert caught.value.hint == "do"


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("nonsense", {}, "no verb 'nonsense'"),
        ("show", {}, "reference: is missing"),
        ("show", {"reference": ""}, "reference:"),
        ("show", {"reference": "x" * 301}, "reference:"),
        ("show", {"reference": ["m"]}, "reference:"),
        ("show", {"reference": "m", "more": 1}, "more: there is no such key"),
        ("models", [1], "parameters:"),
        ("get", {"reference": "m", "source": "torrent"}, "source:"),
        ("rm", {"reference": "m", "force": {}}, "force:"),
        ("publish", {"path": "x" * 5000, "manifest": {}}, "path:"),
        ("publish", {"path": "relative", "manifest": {}}, "must be an absolute"),
        ("get", {"reference": "m", "out": "/a\0b"}, "must be an absolute"),
        ("show", {"reference": "m", "x": "y" * MAX_REQUEST_BYTES}, "larger than"),
    ],
)
async def test_a_request_that_makes_no_sense(
    tmp_path: Path, name: str, params: Any, message: str
) -> None:
    async with serving(tmp_path / "s") as client:
        with pytest.raises(UsageError, match=message):
            await ask(client, name, params)


async def test_other_requests_and_no_json(tmp_path: Path) -> None:
    path = tmp_path / "s"

    def post(target: str, body: bytes) -> httpx.Response:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
            return client.post(f"http://peatnet{target}", content=body)

    async with serving(path):
        for body in (b"{", b"\xff", b"[" * 100_000):
            answer = await trio.to_thread.run_sync(post, "/v1/models", body)
            assert answer.status_code == 400
            assert answer.json()["error"]["slug"] == "usage"
        assert (await trio.to_thread.run_sync(post, "/other", b"{}")).status_code == 404
        assert (await trio.to_thread.run_sync(post, "/v1/nonsense", b"{}")).status_code == 404


async def test_progress_comes_before_the_result_and_from_any_thread(
    tmp_path: Path, verb: Callable[..., None]
) -> None:
    heard = trio.Event()
    token = trio.lowlevel.current_trio_token()

    async def work(_node: Node, _params: NoParams, emit: Emit) -> Any:
        emit({"step": 1})
        await heard.wait()
        await trio.to_thread.run_sync(emit, {"step": 2})
        await trio.to_thread.run_sync(emit, {"step": 3})
        return "done"

    steps: list[int] = []

    def on_progress(progress: dict[str, Any]) -> None:
        steps.append(progress["step"])
        trio.from_thread.run_sync(heard.set, trio_token=token)

    verb("work", work)
    async with serving(tmp_path / "s") as client:
        assert await ask(client, "work", {}, on_progress) == "done"
    assert steps == [1, 3]  # 3 replaced 2 before anybody read it


async def test_a_client_that_leaves_cancels_its_verb(
    tmp_path: Path, verb: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    began, ended = trio.Event(), trio.Event()

    async def hang(_node: Node, _params: NoParams, _emit: Emit) -> Any:
        began.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async def nothing(_node: Node, _params: NoParams, _emit: Emit) -> Any:
        return None

    verb("hang", hang)
    verb("nothing", nothing)
    path = tmp_path / "s"
    async with serving(path):
        stream = await trio.open_unix_socket(str(path))
        await stream.send_all(b"POST /v1/hang HTTP/1.1\r\nhost: p\r\ncontent-length: 2\r\n\r\n{}")
        await began.wait()
        await stream.aclose()
        with trio.fail_after(10):
            await ended.wait()
        # The server goes on, and has nothing to complain about.
        assert await ask(ControlClient(path), "nothing") is None
    assert caplog.text == ""


async def test_the_server_ends_with_verbs_under_way_and_clients_that_do_not_read(
    tmp_path: Path, verb: Callable[..., None]
) -> None:
    began = trio.Event()

    async def hang(_node: Node, _params: NoParams, _emit: Emit) -> Any:
        began.set()
        await trio.sleep_forever()

    verb("hang", hang)
    path = tmp_path / "s"
    failed: list[BaseException] = []

    async def client_side(client: ControlClient) -> None:
        try:
            await ask(client, "hang")
        except NodeUnreachable as exc:
            failed.append(exc)

    async with trio.open_nursery() as nursery:
        with trio.fail_after(10):
            async with serving(path) as client:
                nursery.start_soon(client_side, client)
                await began.wait()
                idle = await trio.open_unix_socket(str(path))
        await idle.aclose()
    assert len(failed) == 1
    assert not path.exists()


async def test_a_bug_in_one_verb_leaves_the_node_alive(
    tmp_path: Path, verb: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    async def crash(_node: Node, _params: NoParams, _emit: Emit) -> Any:
        raise ZeroDivisionError

    verb("crash", crash)
    verb("echo", echo, ReferenceParams)
    async with serving(tmp_path / "s") as client:
        with pytest.raises(NodeUnreachable, match="before its answer"):
            await ask(client, "crash")
        assert await ask(client, "echo", {"reference": "still here"}) == {"echo": "still here"}
    assert "ZeroDivisionError" in caplog.text


def waiting(verb: Callable[..., None]) -> trio.Event:
    """Adds a verb ``slow``, which is done when the event is set."""
    release = trio.Event()

    async def slow(_node: Node, _params: NoParams, _emit: Emit) -> Any:
        await release.wait()
        return "done"

    verb("slow", slow)
    return release


async def test_a_busy_node_is_told_from_a_stuck_one(
    tmp_path: Path, verb: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    release = waiting(verb)
    monkeypatch.setattr(client_module, "_SILENCE_TIMEOUT_S", 0.4)
    path = tmp_path / "s"
    async with serving(path) as client:
        with pytest.raises(NodeUnreachable, match="does not answer"):
            await ask(client, "slow")
    monkeypatch.setattr(server_module, "HEARTBEAT_EVERY_S", 0.0)
    async with serving(path) as client, trio.open_nursery() as nursery:
        answers: list[Any] = []

        async def wait_for_it() -> None:
            answers.append(await ask(client, "slow"))

        nursery.start_soon(wait_for_it)
        await trio.sleep(1.0)  # longer than the silence that the client bears
        assert answers == []
        release.set()
    assert answers == ["done"]


def test_whoever_waits_hears_of_a_node_that_does_not_begin_to_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "_WORD_AFTER_S", 0.05)
    path, heard = tmp_path / "s", threading.Event()
    told: list[float] = []

    def silent(at_most_s: float) -> None:
        told.append(at_most_s)
        heard.set()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def reply() -> None:
            connection, _ = listener.accept()
            with connection:
                assert heard.wait(10)
                connection.sendall(b'HTTP/1.1 200 OK\r\n\r\n{"result": 1}\n')

        thread = threading.Thread(target=reply)
        thread.start()
        assert ControlClient(path, silent).call("models") == 1
        thread.join()
    assert told == [30.0]


async def test_a_node_that_works_on_its_answer_is_not_called_silent(
    tmp_path: Path, verb: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    timers: list[threading.Timer] = []

    class Timer(threading.Timer):
        def start(self) -> None:
            timers.append(self)
            super().start()

    async def slow(_node: Node, _params: NoParams, emit: Emit) -> Any:
        emit({"done": 1})
        await trio.sleep_forever()

    class Heard(Exception):
        pass

    def heard(progress: dict[str, Any]) -> None:
        assert progress == {"done": 1}
        # While the verb still runs.
        assert [timer.finished.is_set() for timer in timers] == [True]
        raise Heard

    verb("slow", slow)
    monkeypatch.setattr(client_module, "Timer", Timer)
    path = tmp_path / "s"
    async with serving(path):
        with pytest.raises(Heard):
            await ask(ControlClient(path, lambda _: None), "slow", None, heard)


async def test_clients_that_leave_in_the_middle_of_their_requests(
    tmp_path: Path, verb: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    verb("echo", echo, ReferenceParams)
    path = tmp_path / "s"
    head = b"POST /v1/models HTTP/1.1\r\nhost: p\r\n"
    requests = [
        b"POST /v1",
        head,
        head + b"content-length: 200\r\n\r\n",
        head + b"content-length: 200\r\n\r\n{",
        head + b"transfer-encoding: chunked\r\n\r\n5\r\n{",
    ]
    async with serving(path) as client:
        # What ended the node was a race of two tasks: one round in three or so.
        for _ in range(20):
            for request in requests:
                stream = await trio.open_unix_socket(str(path))
                await stream.send_all(request)
                await trio.testing.wait_all_tasks_blocked()
                await stream.aclose()
                await trio.testing.wait_all_tasks_blocked()
        assert await ask(client, "echo", {"reference": "still here"}) == {"echo": "still here"}
    assert caplog.text == ""


async def test_an_error_in_one_connection_ends_that_one(
    tmp_path: Path, verb: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    release = waiting(verb)
    answers: list[Any] = []

    async def wait_for_it(client: ControlClient) -> None:
        answers.append(await ask(client, "slow"))

    path = tmp_path / "s"
    async with serving(path) as client, trio.open_nursery() as nursery:
        nursery.start_soon(wait_for_it, client)
        stream = await trio.open_unix_socket(str(path))
        # The settings are no base64, for which hypercorn is not prepared.
        await stream.send_all(
            b"GET / HTTP/1.1\r\nhost: p\r\nconnection: upgrade, http2-settings\r\n"
            b"upgrade: h2c\r\nhttp2-settings: A\r\n\r\n"
        )
        with trio.fail_after(10):
            while await stream.receive_some():
                pass
        await stream.aclose()
        release.set()
    assert answers == ["done"]
    (record,) = caplog.records
    assert "a control connection failed" in record.getMessage()
    assert record.exc_info is None


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "before its answer was whole"),
        (b"SSH-2.0-OpenSSH\r\n", "before its answer was whole"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "before its answer was whole"),
        (b'HTTP/1.1 200 OK\r\n\r\n{"progress": 1}\n\n{"resu', "before its answer was whole"),
        (b"HTTP/1.1 200 OK\r\n\r\n<html>\n", "not peatnet's"),
        (b"HTTP/1.1 200 OK\r\n\r\n[]\n", "not peatnet's"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{}\n", "before its answer was whole"),
    ],
)
def test_what_else_may_answer_on_the_socket(tmp_path: Path, answer: bytes, message: str) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def reply() -> None:
            connection, _ = listener.accept()
            with connection:
                while not connection.recv(65536).endswith(b"{}"):
                    pass
                connection.sendall(answer)

        thread = threading.Thread(target=reply)
        thread.start()
        with pytest.raises(NodeUnreachable, match=message):
            ControlClient(path).call("models")
        thread.join()


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(NodeUnreachable, match="no node answers"):
        ControlClient(tmp_path / "s").call("models")


def test_an_error_from_a_newer_node_is_still_an_error() -> None:
    error = client_module.rebuild_error({"slug": "of-the-future", "message": "m", "hint": None})
    assert type(error) is PeatnetError
    assert json.loads(json.dumps(error_line(NotFound("m")))) == {
        "error": {"slug": "not-found", "message": "m", "hint": None}
    }
