"""The control socket: who may open it, what may be in its way, and what is left of it."""

from __future__ import annotations

import os
import socket
import stat
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from peatnet.api.listener import control_listener
from peatnet.api.socket_path import answers, control_socket, socket_address
from peatnet.errors import DataDirLocked, NodeUnreachable, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def listen(stack: ExitStack, path: Path) -> None:
    descriptor = stack.enter_context(control_listener(path))
    stack.callback(os.close, descriptor)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_its_owner_may_open_it_whatever_the_umask(
    tmp_path: Path, stack: ExitStack, umask: int
) -> None:
    before = os.umask(umask)
    try:
        listen(stack, tmp_path / "control.sock")
    finally:
        os.umask(before)
    mode = (tmp_path / "control.sock").lstat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    assert answers(tmp_path / "control.sock")
    stack.close()
    assert list(tmp_path.iterdir()) == []
    assert not answers(tmp_path / "control.sock")


def test_a_dead_nodes_socket_is_replaced(tmp_path: Path, stack: ExitStack) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    assert path.exists()
    assert not answers(path)
    listen(stack, path)
    assert answers(path)


def test_a_living_nodes_socket_is_not(tmp_path: Path, stack: ExitStack) -> None:
    path = tmp_path / "control.sock"
    listen(stack, path)
    with pytest.raises(DataDirLocked, match="another node answers"), control_listener(path):
        pass
    assert answers(path)


def test_what_is_no_socket_stays_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    path.write_text("mine")
    with pytest.raises(StorageError, match="not a socket"), control_listener(path):
        pass
    assert path.read_text() == "mine"


def test_a_successors_socket_survives_our_end(tmp_path: Path, stack: ExitStack) -> None:
    path = tmp_path / "control.sock"
    listen(stack, path)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(str(path))
        successor.listen()
        stack.close()
        assert answers(path)


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"), control_listener(tmp_path / "no" / "s"):
        pass
    assert not answers(tmp_path / "no" / "s")
    (tmp_path / "file").touch()
    assert not answers(tmp_path / "file" / "s")


def test_a_path_too_long_for_a_socket_works(tmp_path: Path, stack: ExitStack) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    path = control_socket(deep)
    assert not answers(path)
    listen(stack, path)
    assert path.is_socket()
    assert answers(path)
    with socket_address(path) as address:
        assert len(address) < 108
    assert not answers(tmp_path / ("d" * 100) / ("f" * 100) / "control.sock")


@pytest.mark.skipif(os.getuid() == 0, reason="root may open every socket")
def test_another_users_node(tmp_path: Path, stack: ExitStack) -> None:
    path = tmp_path / "control.sock"
    listen(stack, path)
    path.chmod(0)
    with pytest.raises(NodeUnreachable, match="not permitted"):
        answers(path)


def with_a_full_queue(path: Path, stack: ExitStack) -> socket.socket:
    """A listening socket that takes no more connections until it has accepted one."""
    listening = stack.enter_context(socket.socket(socket.AF_UNIX))
    listening.bind(str(path))
    listening.listen(0)
    stack.enter_context(socket.socket(socket.AF_UNIX)).connect(str(path))
    return listening


def test_a_node_too_stuck_to_accept(tmp_path: Path, stack: ExitStack) -> None:
    path = tmp_path / "control.sock"
    with_a_full_queue(path, stack)
    with pytest.raises(NodeUnreachable, match="too many others wait"):
        answers(path)


def test_a_node_that_is_slow_to_accept(tmp_path: Path, stack: ExitStack) -> None:
    path = tmp_path / "control.sock"
    busy = with_a_full_queue(path, stack)
    refused = stack.enter_context(socket.socket(socket.AF_UNIX))
    refused.settimeout(0)
    with pytest.raises(BlockingIOError):
        refused.connect(str(path))
    found: list[bool] = []
    asking = threading.Thread(target=lambda: found.append(answers(path)))
    asking.start()
    asking.join(0.1)  # it has been refused by now
    busy.settimeout(10)
    for _ in range(2):
        busy.accept()[0].close()
    asking.join()
    assert found == [True]


def test_many_at_one_moment(tmp_path: Path, stack: ExitStack) -> None:
    path = tmp_path / "control.sock"
    listen(stack, path)
    for _ in range(300):
        waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
        waiting.settimeout(0)
        waiting.connect(str(path))
    assert answers(path)
