"""The same verbs with and without a running node, and who waits for whom."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest
import trio

from peatnet.api import calls
from peatnet.api.calls import call, node_is_running
from peatnet.api.server import serve_control
from peatnet.api.socket_path import control_socket
from peatnet.api.verbs import VERBS, Emit, NoParams, Verb
from peatnet.config import Config
from peatnet.errors import DataDirLocked, NotFound
from peatnet.models import ModelManifest
from peatnet.opening import open_node

if TYPE_CHECKING:
    from pathlib import Path

    from peatnet.node import Node


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(data_dir=tmp_path / "data", mdns=False, free_floor_bytes=0)


def draft() -> dict[str, Any]:
    manifest = ModelManifest.from_draft(
        '{"model_id": "m", "name": "m", "model_type": "llm"}', created_at="2026-01-01T00:00:00Z"
    )
    return manifest.payload()


def test_the_lock_is_waited_for_but_not_for_long(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    call(config, "id", {})
    with (config.data_dir / "lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        naps: list[float] = []

        def nap(seconds: float) -> None:
            naps.append(seconds)
            if len(naps) == 3:
                fcntl.flock(lock, fcntl.LOCK_UN)

        monkeypatch.setattr(calls, "sleep", nap)
        assert call(config, "models", {}) == []
        assert len(naps) == 3
        fcntl.flock(lock, fcntl.LOCK_EX)
        monkeypatch.setattr(calls, "LOCK_PATIENCE_S", 0.0)
        with pytest.raises(DataDirLocked):
            call(config, "models", {})
        assert len(naps) == 3


def test_a_running_node_is_asked_and_says_what_the_files_say(
    config: Config, tmp_path: Path
) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(b"peat" * 100_000)

    def ask(verb: str, params: dict[str, Any] | None = None) -> Any:
        return call(config, verb, params or {})

    def look() -> dict[str, Any]:
        return {
            "show": ask("show", {"reference": "m"}),
            "models": ask("models"),
            "id": ask("id"),
            "path": ask("get", {"reference": "m"})["path"],
        }

    async def while_a_node_runs() -> tuple[Any, dict[str, Any]]:
        async with open_node(config, network=False) as node, trio.open_nursery() as nursery:
            await nursery.start(serve_control, node, control_socket(config.data_dir))
            assert node_is_running(config)
            params = {"path": str(model), "manifest": draft()}
            published = await trio.to_thread.run_sync(ask, "publish", params)
            seen = await trio.to_thread.run_sync(look)
            assert (await trio.to_thread.run_sync(ask, "node"))["addrs"] == []
            with pytest.raises(NotFound, match="no model 'x'"):
                await trio.to_thread.run_sync(ask, "show", {"reference": "x"})
            nursery.cancel_scope.cancel()
        return published, seen

    assert not node_is_running(config)
    published, seen = trio.run(while_a_node_runs)
    assert seen["show"] == published
    assert not node_is_running(config)
    assert look() == seen


def test_verify_says_how_many_bytes_it_has_read_of_how_many(config: Config, tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(b"peat" * 100_000)
    call(config, "publish", {"path": str(model), "manifest": draft()})
    told: list[dict[str, Any]] = []
    report = call(config, "verify", {"rebuild": True}, on_progress=told.append)
    assert (report["ok"], report["bytes_read"]) == (True, 400_000)
    assert told[-1] == {"hashed_bytes": 400_000, "size_bytes": 400_000}


def test_a_get_of_what_is_here_says_that_it_copies(config: Config, tmp_path: Path) -> None:
    model, out = tmp_path / "m.gguf", tmp_path / "out"
    model.write_bytes(b"peat" * 100_000)
    call(config, "publish", {"path": str(model), "manifest": draft()})
    told: list[dict[str, Any]] = []
    call(config, "get", {"reference": "m", "out": str(out)}, on_progress=told.append)
    assert out.read_bytes() == model.read_bytes()
    assert (told[0]["copied_bytes"], told[0]["size_bytes"]) == (0, 400_000)
    told.clear()
    call(config, "get", {"reference": "m"}, on_progress=told.append)
    assert told == []


def test_a_verb_alone_is_ended_by_a_signal(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    cleaned = threading.Event()

    async def hang(_node: Node, _params: NoParams, _emit: Emit) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            await trio.sleep_forever()
        finally:
            cleaned.set()

    monkeypatch.setitem(VERBS, "hang", Verb(NoParams, hang))
    with pytest.raises(KeyboardInterrupt):
        call(config, "hang", {})
    assert cleaned.is_set()
    assert call(config, "models", {}) == []
