"""Activations on a real disk with real loaders: programs and an HTTP server."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
from activation_kit import PUBLISHER, WAITING, Bench, gguf, loaders_running
from support.waiting import DEFAULT_TIMEOUT, until

from peatnet.deploy.activation import MAX_ATTEMPTS, Phase
from peatnet.deploy.activator import CANCELED
from peatnet.deploy.loaders import CommandLoader
from peatnet.deploy.service_table import ServiceTable
from peatnet.errors import InUse
from peatnet.models import ModelFormat, ModelStatus, Quantization, Timestamp, ministral_3b

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from peatnet.deploy.activation import Candidate

LOADED, READY, FAILED = ModelStatus.LOADED, ModelStatus.READY, ModelStatus.FAILED


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "node")
    yield bench
    bench.close()


def blobs(*candidates: Candidate) -> set[str]:
    return {candidate.blob for candidate in candidates if candidate.blob is not None}


async def test_a_model_is_put_into_service(bench: Bench) -> None:
    old, new = bench.model("m@1"), bench.model("m@2")
    outcome = await bench.activator.activate(old)
    assert (outcome.status, outcome.in_service, outcome.reason) == (LOADED, old, None)
    assert (bench.linked("m"), bench.running) == ("m@1", "m@1")
    assert str(bench.link("m").readlink()) == "m-1-q4_k_m.gguf"
    assert bench.activator.current("m") == old
    assert bench.activator.previous("m") is None
    outcome = await bench.activator.activate(new)
    assert (outcome.status, outcome.in_service) == (LOADED, new)
    assert (bench.linked("m"), bench.running, bench.asked) == ("m@2", "m@2", ["m@1", "m@2"])
    assert bench.activator.loaded() == [new]
    assert bench.activator.previous("m") == old
    assert bench.pinned() == blobs(new)
    bench = bench.again()
    assert await bench.activator.recover() == []
    assert bench.activator.loaded() == [new]
    assert bench.activator.previous("m") == old
    assert len(bench.asked) == 2
    bench.close()


async def test_what_the_loader_is_told(bench: Bench, tmp_path: Path) -> None:
    bench.verdict("m@1", 'echo "[$MODEL_PATH] [$MANIFEST_PATH] [$PREVIOUS_PATH]" > told')
    old, new = bench.model("m@0"), bench.model("m@1")
    await bench.activator.activate(old)
    outside = tmp_path / "m.json"
    await bench.activator.activate(replace(new, manifest_path=str(outside)))
    folder = bench.root / "models" / "m"
    told = (bench.root / "told").read_text()
    assert told == f"[{folder}/m-1-q4_k_m.gguf] [{outside}] [{folder}/m-0-q4_k_m.gguf]\n"


async def test_a_loader_that_fails(bench: Bench) -> None:
    old, new = bench.model("m@1"), bench.model("m@2")
    await bench.activator.activate(old)
    bench.verdict("m@2", "echo 'out of memory' >&2; exit 3")
    outcome = await bench.activator.activate(new)
    assert (outcome.status, outcome.in_service, outcome.in_service_loaded) == (FAILED, old, True)
    assert outcome.reason == "sh ended with exit code 3"
    assert outcome.lines == ("loading m@2, was m-1-q4_k_m.gguf", "out of memory")
    assert (bench.linked("m"), bench.running, bench.asked) == ("m@1", "m@1", ["m@1", "m@2", "m@1"])
    assert bench.activator.loaded() == [old]
    assert bench.pinned() == blobs(old)


async def test_the_old_one_stays_loaded_until_the_new_one_is(bench: Bench) -> None:
    old, new = bench.model("m@1"), bench.model("m@2")
    await bench.activator.activate(old)
    bench.verdict("m@2", "touch waiting; while ! [ -e go ]; do sleep 0.01; done")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.activator.activate, new)
        await until((bench.root / "waiting").exists)
        assert bench.activator.loaded() == [old]
        assert bench.activator.current("m") == old
        assert bench.linked("m") == "m@2"
        assert bench.pinned() == blobs(old, new)
        (bench.root / "go").touch()
    assert bench.activator.loaded() == [new]


@pytest.mark.parametrize(
    "data", [b"GGUF" + bytes(20), b"junk", gguf("")[:20]], ids=["version", "junk", "cut"]
)
async def test_a_broken_file_never_reaches_the_loader(bench: Bench, data: bytes) -> None:
    old, new = bench.model("m@1"), bench.model("m@2", data)
    await bench.activator.activate(old)
    outcome = await bench.activator.activate(new)
    assert (outcome.status, outcome.in_service, outcome.in_service_loaded) == (FAILED, old, True)
    assert outcome.failures[0].phase is Phase.CHECK
    assert (bench.linked("m"), bench.asked) == ("m@1", ["m@1"])


async def test_a_format_without_a_reader_passes(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "node", {})
    model = bench.model("m@1", b"whatever", ModelFormat.PYTORCH)
    outcome = await bench.activator.activate(model)
    assert (outcome.status, outcome.in_service) == (READY, model)
    bench.close()


async def test_without_a_loader_ready_is_the_end(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "node", {"onnx": CommandLoader(("false",))})
    old, new = bench.model("m@1"), bench.model("m@2")
    assert (await bench.activator.activate(old)).status is READY
    assert (await bench.activator.activate(new)).status is READY
    assert bench.linked("m") == "m@2"
    assert bench.activator.current("m") == new
    assert bench.activator.loaded() == []
    broken = bench.model("m@3", b"junk")
    assert (await bench.activator.activate(broken)).in_service == new
    assert bench.linked("m") == "m@2"
    bench.close()


async def test_the_model_named_to_go_back_to(bench: Bench) -> None:
    older, old, new = bench.model("m@0"), bench.model("m@1"), bench.model("m@2")
    await bench.activator.activate(old)
    bench.verdict("m@2", "exit 1")
    outcome = await bench.activator.activate(new, older)
    assert (outcome.status, outcome.in_service, bench.running) == (FAILED, older, "m@0")
    assert bench.linked("m") == "m@0"
    bench.verdict("m@0", "exit 1")
    bench.verdict("m@1", "")
    await bench.activator.activate(old)
    outcome = await bench.activator.activate(new, older)
    assert (outcome.in_service, bench.running, bench.linked("m")) == (old, "m@1", "m@1")
    assert bench.asked[-3:] == ["m@2", "m@0", "m@1"]


async def test_a_model_of_another_name_to_go_back_to(bench: Bench) -> None:
    old, new, small = bench.model("m@1"), bench.model("m@2"), bench.model("small@1")
    await bench.activator.activate(old)
    bench.verdict("m@2", "exit 1")
    outcome = await bench.activator.activate(new, small)
    assert (outcome.in_service, bench.running) == (small, "small@1")
    assert (bench.linked("m"), bench.linked("small")) == ("m@1", "small@1")
    assert bench.activator.loaded() == [small]
    assert bench.activator.current("m") == old
    assert bench.pinned() == blobs(old, small)


async def test_nothing_to_go_back_to(bench: Bench) -> None:
    new = bench.model("m@2")
    bench.verdict("m@2", "exit 1")
    outcome = await bench.activator.activate(new)
    assert (outcome.status, outcome.in_service) == (FAILED, None)
    assert (bench.linked("m"), bench.activator.current("m"), bench.pinned()) == (None, None, set())


async def test_the_old_one_fails_as_well(bench: Bench) -> None:
    old, new = bench.model("m@1"), bench.model("m@2")
    await bench.activator.activate(old)
    bench.verdict("m@1", "exit 1")
    bench.verdict("m@2", "exit 2")
    outcome = await bench.activator.activate(new)
    assert [each.reason for each in outcome.failures] == [
        "sh ended with exit code 2",
        "sh ended with exit code 1",
    ]
    assert (outcome.in_service, outcome.in_service_loaded) == (old, False)
    assert (bench.linked("m"), bench.activator.loaded()) == ("m@1", [])


async def test_a_loader_that_takes_too_long(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "node", slow=1.0)
    old, new = bench.model("m@1"), bench.model("m@2")
    bench.verdict("m@2", WAITING)
    await bench.activator.activate(old)
    outcome = await bench.activator.activate(new)
    assert outcome.reason == "sh took longer than 1 s"
    assert (outcome.in_service, bench.running) == (old, "m@1")
    bench.close()


async def test_a_command_is_done_once(bench: Bench) -> None:
    old, new = bench.model("m@1"), bench.model("m@2")
    await bench.activator.activate(old, command="one")
    bench.verdict("m@2", "exit 1")
    outcome = await bench.activator.activate(new, command="two")
    bench.verdict("m@2", "")
    assert await bench.activator.activate(new, command="two") == outcome
    bench = bench.again()
    assert await bench.activator.activate(new, command="two") == outcome
    assert bench.asked == ["m@1", "m@2", "m@1"]
    assert (await bench.activator.activate(new, command="three")).status is LOADED
    assert (await bench.activator.activate(new, command="four")).status is LOADED
    assert bench.asked[3:] == ["m@2"]  # it was loaded already
    bench.close()


async def test_giving_up(bench: Bench) -> None:
    old, new = bench.model("m@1"), bench.model("m@2")
    await bench.activator.activate(old)
    bench.verdict("m@2", WAITING)
    assert not await bench.activator.cancel("m")
    outcomes = []

    async def activate() -> None:
        outcomes.append(await bench.activator.activate(new, command="c"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(activate)
        await until((bench.root / "waiting").exists)
        assert loaders_running(bench.root) > 0
        assert not await bench.activator.cancel("m", "another")
        assert not await bench.activator.cancel("n")
        assert await bench.activator.cancel("m", "c")
    (outcome,) = outcomes
    assert (outcome.reason, outcome.in_service, bench.running) == (CANCELED, old, "m@1")
    assert loaders_running(bench.root) == 0


async def test_giving_up_leaves_what_is_in_service_whatever_is_named_to_go_back_to(
    bench: Bench,
) -> None:
    named, old, new = bench.model("m@0"), bench.model("m@1"), bench.model("m@2")
    await bench.activator.activate(old)
    await bench.activator.cancel("m", "before it has begun")
    outcome = await bench.activator.activate(new, named, command="before it has begun")
    assert (outcome.reason, outcome.in_service, bench.linked("m")) == (CANCELED, old, "m@1")
    assert bench.asked == ["m@1"]  # nothing was disturbed
    bench.verdict("m@2", WAITING)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(bench.activator.activate, new, named, command="c"))
        await until((bench.root / "waiting").exists)
        assert await bench.activator.cancel("m", "c")
    assert bench.asked == ["m@1", "m@2", "m@1"]
    assert bench.activator.loaded() == [old]
    assert (bench.linked("m"), bench.running) == ("m@1", "m@1")


async def test_a_stop_is_no_failure(bench: Bench) -> None:
    old, new = bench.model("m@1"), bench.model("m@2")
    await bench.activator.activate(old)
    bench.verdict("m@2", WAITING)
    for _ in range(MAX_ATTEMPTS + 1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.activator.activate, new)
            await until((bench.root / "waiting").exists)
            nursery.cancel_scope.cancel()
        assert loaders_running(bench.root) == 0
        (bench.root / "waiting").unlink()
        bench = bench.again()
        assert bench.activator.loaded() == [old]
        assert bench.linked("m") is not None
    # Once a run of the node, and it never counted as failed.
    assert bench.asked == ["m@1", *["m@2"] * (MAX_ATTEMPTS + 1)]
    bench.verdict("m@2", "")
    (outcome,) = await bench.activator.recover()
    assert (outcome.status, outcome.wanted, bench.running) == (LOADED, new, "m@2")
    bench.close()


async def test_a_stop_while_the_header_is_read_is_no_attempt(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go = threading.Event(), threading.Event()

    def check(_path: Path, _format: str) -> None:
        reading.set()
        assert go.wait(DEFAULT_TIMEOUT)

    monkeypatch.setattr("peatnet.deploy.activator.check_header", check)
    new = bench.model("m@1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.activator.activate, new)
        await until(reading.is_set)
        assert [state.attempts for state in ServiceTable(bench.database).pending()] == [1]
        nursery.cancel_scope.cancel()
        go.set()
    (state,) = ServiceTable(bench.database).pending()
    assert (state.phase, state.attempts) == (Phase.SWITCH, 0)


async def test_giving_up_what_a_stop_has_interrupted(bench: Bench) -> None:
    old, new = bench.model("m@1"), bench.model("m@2")
    await bench.activator.activate(old)
    bench.verdict("m@2", WAITING)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.activator.activate, new)
        await until((bench.root / "waiting").exists)
        nursery.cancel_scope.cancel()
    bench = bench.again()
    assert await bench.activator.cancel("m")
    (outcome,) = await bench.activator.recover()
    assert (outcome.reason, outcome.in_service, bench.running) == (CANCELED, old, "m@1")
    bench.close()


async def test_a_file_that_goes_while_the_node_is_down(bench: Bench) -> None:
    old, new = bench.model("m@1"), bench.model("m@2")
    await bench.activator.activate(old)
    bench.verdict("m@2", WAITING)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.activator.activate, new)
        await until((bench.root / "waiting").exists)
        nursery.cancel_scope.cancel()
    for info in bench.store.blobs():
        if info.hash.hex() == new.blob:
            bench.store.remove(info.hash, force=True)
    bench.activator.path_of(new).unlink()
    bench = bench.again()
    (outcome,) = await bench.activator.recover()
    assert outcome.reason is not None
    assert outcome.reason.startswith("the file of m@2 is gone")
    assert (outcome.in_service, bench.linked("m"), bench.running) == (old, "m@1", "m@1")
    bench.close()


async def test_a_model_in_service_whose_file_is_gone(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    old = bench.model("m@1")
    await bench.activator.activate(old)
    (info,) = bench.store.blobs()
    bench.store.remove(info.hash, force=True)
    bench.activator.path_of(old).unlink()
    bench = bench.again()
    await bench.activator.recover()
    assert "the file of m@1 is gone" in caplog.text
    # What there is instead goes into service; where that fails, there is nothing left to go back to.
    bench.verdict("m@2", "exit 1")
    outcome = await bench.activator.activate(bench.model("m@2"))
    assert [each.phase for each in outcome.failures] == [Phase.LOAD, Phase.SWITCH]
    assert bench.activator.loaded() == []
    bench.verdict("m@2", "")
    assert (await bench.activator.activate(bench.model("m@2"))).status is LOADED
    assert bench.linked("m") == "m@2"
    bench.close()


async def test_one_at_a_time(bench: Bench) -> None:
    bench.verdict("a@1", "mkdir busy && sleep 0.1 && rmdir busy")
    bench.verdict("b@1", "mkdir busy && sleep 0.1 && rmdir busy")
    async with trio.open_nursery() as nursery:
        for name in ("a@1", "b@1"):
            nursery.start_soon(bench.activator.activate, bench.model(name))
    assert {str(model) for model in bench.activator.loaded()} == {"a@1", "b@1"}


async def test_what_is_in_service_is_not_removed(bench: Bench) -> None:
    old, new = bench.model("m@1"), bench.model("m@2")
    await bench.activator.activate(new)
    bench.store.gc(set())
    bench.activator.path_of(old).unlink()  # as a library does with names whose blob is gone
    assert blobs(new) == {info.hash.hex() for info in bench.store.blobs()}
    (info,) = bench.store.blobs()
    with pytest.raises(InUse):
        bench.store.remove(info.hash)
    outcome = await bench.activator.activate(old)
    assert outcome.in_service == new
    assert outcome.reason is not None
    assert outcome.reason.startswith("the file of m@1 is gone")
    assert bench.linked("m") == "m@2"


async def test_a_name_that_was_given_to_another_file(bench: Bench) -> None:
    old = bench.model("m@1")
    await bench.activator.activate(old)
    # The same version, published anew: its file takes the name of the old one.
    bench.model("m@1", gguf("another"))
    assert bench.linked("m") == "another"
    bench = bench.again()
    await bench.activator.recover()
    assert bench.linked("m") == "m@1"
    bench.verdict("m@2", "exit 1")
    outcome = await bench.activator.activate(bench.model("m@2"))
    assert (outcome.in_service, bench.running, bench.linked("m")) == (old, "m@1", "m@1")
    bench.close()


async def test_links_are_set_right(bench: Bench) -> None:
    await bench.activator.activate(bench.model("m@1"))
    bench.model("m@2")
    bench.link("m").unlink()
    bench = bench.again()
    assert await bench.activator.recover() == []
    assert bench.linked("m") == "m@1"
    bench.link("m").unlink()
    bench.link("m").symlink_to("m-2-q4_k_m.gguf")
    (bench.root / "models" / "m" / ".tmp-1-a-0").symlink_to("nowhere")
    bench = bench.again()
    await bench.activator.recover()
    assert bench.linked("m") == "m@1"
    assert not [path for path in bench.link("m").parent.iterdir() if path.name.startswith(".tmp-")]
    assert bench.asked == ["m@1"]
    bench.close()


async def test_an_older_database_is_put_back(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = bench.model("m@1"), bench.model("m@2")
    await bench.activator.activate(old)
    bench.close()
    before = (bench.root / "peatnet.db").read_bytes()
    bench = Bench(bench.root)
    await bench.activator.activate(new)
    bench.close()
    (bench.root / "peatnet.db").write_bytes(before)
    bench = Bench(bench.root)
    assert bench.activator.loaded() == [old]
    await bench.activator.recover()
    assert bench.linked("m") == "m@1"
    told = "link led to something else than what is in service"
    assert told in caplog.text
    assert f"led_to={bench.activator.path_of(new)}" in caplog.text
    # Nobody has asked a loader for it: it is told so, also later, and the next one who wants it has it loaded.
    for _ in range(2):
        assert (bench.activator.current("m"), bench.activator.loaded()) == (old, [])
        bench = bench.again()
        await bench.activator.recover()
    assert caplog.text.count(told) == 1
    assert bench.asked == ["m@1", "m@2"]
    assert (await bench.activator.activate(old)).status is LOADED
    assert bench.asked == ["m@1", "m@2", "m@1"]
    bench.close()


async def test_something_in_the_way_of_the_link(bench: Bench) -> None:
    bench.link("m").mkdir(parents=True)
    outcome = await bench.activator.activate(bench.model("m@1"))
    assert outcome.failures[0].phase is Phase.SWITCH
    assert outcome.reason == f"{bench.link('m')} is in the way: it should be a symbolic link"
    assert bench.asked == []
    bench.link("m").rmdir()
    assert (await bench.activator.activate(bench.model("m@1"))).status is LOADED


async def test_a_data_directory_that_was_moved(bench: Bench, tmp_path: Path) -> None:
    await bench.activator.activate(bench.model("m@1"))
    bench.close()
    there = (tmp_path / "node").rename(tmp_path / "elsewhere")
    bench = Bench(there)
    await bench.activator.recover()
    assert bench.linked("m") == "m@1"
    current = bench.activator.current("m")
    assert current is not None
    assert bench.activator.path_of(current) == there / "models" / "m" / "m-1-q4_k_m.gguf"
    bench.database.close()


async def test_a_file_elsewhere(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "node")
    manifest = ministral_3b(Quantization.Q4_K_M, created_at=Timestamp("2025-12-02T10:11:12Z"))
    path = tmp_path / "file"
    path.write_bytes(gguf(manifest.key))
    candidate = bench.activator.candidate(PUBLISHER, manifest, path, tmp_path / "m.json")
    assert (candidate.path, candidate.manifest_path) == (str(path), str(tmp_path / "m.json"))
    assert (await bench.activator.activate(candidate)).status is LOADED
    assert bench.link(manifest.model_id).resolve() == path
    bench.close()
