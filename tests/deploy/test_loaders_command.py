"""Loaders that are programs: real ones, which fail, hang, flood, fork and flee."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest
import trio
from support.waiting import until

from peatnet.deploy import commands, running
from peatnet.deploy.commands import TOKEN_VARIABLE, end_marked
from peatnet.deploy.loaders import KEPT_BYTES, MAX_LINES, CommandLoader, LoadJob
from peatnet.deploy.running import run_loader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from peatnet.deploy.loaders import LoadResult

LONG = 1000.0
NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs processes of two users")


@pytest.fixture
def token() -> Iterator[str]:
    """A token; whatever a failed test has left behind is ended."""
    token = os.urandom(8).hex()
    yield token
    end_marked(token)


def marked(token: str) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(TOKEN_VARIABLE) == token:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def job(path: Path) -> LoadJob:
    return LoadJob("my model", "1.2", path / "m.gguf", None, path / "old.gguf")


async def load(path: Path, token: str, *command: str | Path, limit: float = LONG) -> LoadResult:
    loader = CommandLoader(tuple(str(word) for word in command), limit)
    return await run_loader(loader, job(path), cwd=path, token=token)


async def shell(path: Path, token: str, script: str, *, limit: float = LONG) -> LoadResult:
    return await load(path, token, "sh", "-c", script, limit=limit)


async def test_what_a_program_is_given(tmp_path: Path, token: str) -> None:
    code = (
        "import os, sys; print([os.environ[name] for name in ('MODEL_ID', 'MODEL_VERSION', 'MODEL_PATH',"
        " 'MANIFEST_PATH', 'PREVIOUS_PATH')]); print(sys.argv[1:]); print(os.getcwd());"
        " print(repr(sys.stdin.read())); print(os.getsid(0) == os.getpid()); print('HOME' in os.environ);"
        " print(sorted(os.listdir('/proc/self/fd')))"
    )
    result = await load(tmp_path, token, sys.executable, "-c", code, "{model_id}", "$MODEL_ID; a b")
    assert result.loaded
    *given, descriptors = result.lines
    assert given == [
        str(["my model", "1.2", f"{tmp_path}/m.gguf", "", f"{tmp_path}/old.gguf"]),
        "['{model_id}', '$MODEL_ID; a b']",
        str(tmp_path),
        "''",
        "True",
        str("HOME" in os.environ),
    ]
    assert descriptors == "['0', '1', '2', '3']"  # 3 is the directory that is being listed


async def test_stdout_and_stderr_are_kept_in_order(tmp_path: Path, token: str) -> None:
    result = await shell(tmp_path, token, "echo one; echo two >&2; echo three; exit 7")
    assert not result.loaded
    assert result.reason == "sh ended with exit code 7"
    assert result.lines == ("one", "two", "three")


async def test_a_program_that_cannot_be_started(tmp_path: Path, token: str) -> None:
    result = await load(tmp_path, token, "no-such-program")
    assert result.reason == "no-such-program cannot be started: No such file or directory"
    (tmp_path / "text").write_text("")
    result = await load(tmp_path, token, tmp_path / "text")
    assert result.reason is not None
    assert result.reason.endswith("cannot be started: Permission denied")


async def test_a_program_that_is_killed(tmp_path: Path, token: str) -> None:
    result = await shell(tmp_path, token, "echo loading; kill -9 $$")
    assert result.reason == "sh was ended by SIGKILL"
    assert result.lines == ("loading",)


async def test_a_flood_is_cut(tmp_path: Path, token: str) -> None:
    code = "import sys\nfor n in range(400_000): print('line', n)\nprint('x' * 10_000_000)\nprint('end')"
    result = await load(tmp_path, token, sys.executable, "-c", code)
    assert result.loaded
    assert len(result.lines) <= MAX_LINES
    assert result.lines[-1] == "end"
    assert set(result.lines[-2]) == {"x"}
    assert sum(map(len, result.lines)) < KEPT_BYTES


async def test_a_program_that_takes_too_long_is_ended(tmp_path: Path, token: str) -> None:
    # The command writes once it is there; only then does its time begin to matter.
    result = await shell(tmp_path, token, "echo waiting; exec sleep 1000", limit=1)
    assert result.reason == "sh took longer than 1 s"
    assert result.lines in {("waiting",), ()}
    assert marked(token) == []


async def test_a_program_may_clean_up_when_it_is_ended(tmp_path: Path, token: str) -> None:
    script = "trap 'echo cleaned; touch clean; exit 0' TERM; touch begun; sleep 1000 & wait"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shell, tmp_path, token, script)
        await until((tmp_path / "begun").exists)
        nursery.cancel_scope.cancel()
    assert (tmp_path / "clean").exists()
    assert marked(token) == []


FLEEING = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for new_session in (False, True):
    subprocess.Popen(
        [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); open(%r + str(__import__('os').getpid()), 'w'); time.sleep(1000)"],
        start_new_session=new_session,
    )
open(sys.argv[1], "w")
{end}
"""


async def test_all_that_a_canceled_program_started_is_ended(tmp_path: Path, token: str) -> None:
    (tmp_path / "flee.py").write_text(
        FLEEING.replace("%r", repr(str(tmp_path / "child"))).replace("{end}", "time.sleep(1000)")
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load, tmp_path, token, sys.executable, "flee.py", "begun")
        await until((tmp_path / "begun").exists)
        await until(lambda: len(list(tmp_path.glob("child*"))) == 2)
        assert len(marked(token)) == 3
        nursery.cancel_scope.cancel()
    assert marked(token) == []


async def test_all_that_a_failed_program_left_is_ended(tmp_path: Path, token: str) -> None:
    end = "while len([n for n in os.listdir() if n.startswith('child')]) < 2: time.sleep(0.01)\nsys.exit(3)"
    (tmp_path / "flee.py").write_text(
        FLEEING.replace("%r", repr(str(tmp_path / "child"))).replace("{end}", end)
    )
    result = await load(tmp_path, token, sys.executable, "flee.py", "begun")
    assert result.reason == f"{sys.executable} ended with exit code 3"
    assert marked(token) == []


async def test_a_server_that_a_good_program_leaves_runs_on(tmp_path: Path, token: str) -> None:
    # It holds the output open, and still the loader has ended.
    result = await shell(tmp_path, token, "sleep 1000 & echo started $!; exit 0")
    assert result.loaded
    (line,) = result.lines
    assert marked(token) == [int(line.split()[1])]
    assert end_marked(token) == 1
    assert marked(token) == []


async def test_a_server_that_goes_on_writing_holds_nobody_up(tmp_path: Path, token: str) -> None:
    result = await shell(tmp_path, token, "yes & echo started; exit 0")
    assert result.loaded
    assert end_marked(token) >= 0
    assert marked(token) == []


def test_only_what_is_marked_is_ended(token: str) -> None:
    with subprocess.Popen(["sleep", "1000"], env={TOKEN_VARIABLE: "another"}) as other:
        try:
            assert end_marked(token) == 0
            assert other.poll() is None
        finally:
            other.kill()


async def test_no_descriptor_is_left(tmp_path: Path, token: str) -> None:
    await shell(tmp_path, token, "true")
    before = psutil.Process().num_fds()
    for script in ("true", "false", "kill -9 $$"):
        await shell(tmp_path, token, script)
        await load(tmp_path, token, "no-such-program")
    assert psutil.Process().num_fds() == before


def refuse(*args: object) -> None:
    raise PermissionError(1, "Operation not permitted")


def nothing_happens(*args: object) -> bool:
    """Signals that ask a program to end are ignored, and not waited for."""
    return False


# What is not waited for leaves its object and its descriptor to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
async def test_a_program_that_cannot_be_ended_is_a_failure(
    tmp_path: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "killpg", refuse)
        patch.setattr(os, "kill", refuse)
        result = await shell(tmp_path, token, "exec sleep 1000", limit=0.5)
    (pid,) = marked(token)
    why = f"sh took longer than 0.5 s; not all of it could be ended: process {pid} runs on"
    assert result.reason == why


# Becomes an ordinary user once the loader is there, as if the loader had become root.
CALLED_OFF = """
import os, sys
from pathlib import Path
import trio
from peatnet.deploy.loaders import CommandLoader, LoadJob
from peatnet.deploy.running import run_loader

async def main(path, token):
    loader = CommandLoader(("sh", "-c", "echo > begun; exec sleep 1000"), 1000.0)
    job = LoadJob("m", "1", path / "m")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: run_loader(loader, job, cwd=path, token=token))
        while not (path / "begun").exists():
            await trio.sleep(0.005)
        os.setresuid(65534, 65534, 65534)
        nursery.cancel_scope.cancel()
    print("canceled")

trio.run(main, Path(sys.argv[1]), sys.argv[2])
"""


@needs_root
def test_roots_program_does_not_end_an_ordinary_users_node(tmp_path: Path, token: str) -> None:
    command = [sys.executable, "-c", CALLED_OFF, str(tmp_path), token]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.stdout == "canceled\n", ended.stderr
    assert len(marked(token)) == 1  # nothing else was possible


CHANGING = """
import os, time
for way in ("in the session", "out of it", "the program itself"):
    if way == "the program itself" or os.fork() == 0:
        if way == "out of it":
            os.setsid()
        with open(way, "w") as note:
            os.setresuid(65534, 65534, 65534)
            note.write("changed")
        time.sleep(1000)
"""


@needs_root
async def test_root_ends_programs_that_have_changed_their_user(
    tmp_path: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "_signal_group", nothing_happens)
    ways = [tmp_path / name for name in ("in the session", "out of it", "the program itself")]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load, tmp_path, token, sys.executable, "-c", CHANGING)
        await until(lambda: all(path.exists() and path.read_text() for path in ways))
        assert {psutil.Process(pid).uids().real for pid in marked(token)} == {NOBODY}
        nursery.cancel_scope.cancel()
    assert marked(token) == []


async def test_the_program_is_ended_where_processes_cannot_be_looked_at(
    tmp_path: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where /proc shows nobody's processes."""
    monkeypatch.setattr(commands, "_signal_group", nothing_happens)
    note = tmp_path / "begun"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shell, tmp_path, token, "echo $$ > begun; exec sleep 1000")
        await until(lambda: note.exists() and note.read_text())
        monkeypatch.setattr(psutil, "pids", list)
        nursery.cancel_scope.cancel()
    assert not psutil.pid_exists(int(note.read_text()))


async def test_a_bug_while_a_program_runs_is_a_failure_and_logged(
    tmp_path: Path, token: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*args: object, **others: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(running, "run_command", broken)
    result = await load(tmp_path, token, "true")
    assert result.reason == "true could not be run (RuntimeError); the log of the node says more"
    assert "RuntimeError: broken" in caplog.text
