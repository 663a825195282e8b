from __future__ import annotations

import errno
import os
import sqlite3
import stat
import threading
from typing import TYPE_CHECKING

import pytest
from blobs_tools import names_in

from peatnet.blobs import Database, make_dir, rename_durable, write_atomic
from peatnet.blobs.durable import (
    fsync_dir,
    is_orphan_temp,
    is_temp,
    read_bounded,
    symlink_durable,
    temp_path,
    unlink_durable,
    write_all,
)
from peatnet.blobs.oserrors import translated
from peatnet.errors import DiskFull, LocalProtocolError, StorageError

if TYPE_CHECKING:
    from pathlib import Path


def test_write_atomic_replaces_whole_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"first")
    write_atomic(path, b"second", mode=0o600)
    assert path.read_bytes() == b"second"
    assert path.stat().st_mode & 0o777 == 0o600
    assert names_in(tmp_path) == ["file"]


def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DiskFull):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["file"]


def test_data_is_synced_before_the_rename_and_the_directory_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(fd: int) -> None:
        events.append("directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        real_fsync(fd)

    def replace(source: str, target: str) -> None:
        events.append("rename")
        real_rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write_atomic(tmp_path / "file", b"x")
    assert events == ["file", "rename", "directory"]


def test_write_all_goes_on_after_a_short_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:3], offset))
    path = tmp_path / "file"
    path.touch()
    fd = os.open(path, os.O_RDWR)
    write_all(fd, b"0123456789", 2)
    os.close(fd)
    assert path.read_bytes() == b"\0\x000123456789"


def test_only_temporary_files_of_other_processes_are_orphans(tmp_path: Path) -> None:
    own = temp_path(tmp_path).name
    assert is_temp(own)
    assert not is_orphan_temp(own)
    assert is_orphan_temp(".tmp-1-abc-0")
    assert not is_orphan_temp("model.gguf")
    assert temp_path(tmp_path).name != own


def test_directories_and_removals(tmp_path: Path) -> None:
    make_dir(tmp_path / "a" / "b")
    make_dir(tmp_path / "a" / "b")
    (tmp_path / "a" / "file").touch()
    rename_durable(tmp_path / "a" / "file", tmp_path / "a" / "b" / "file")
    unlink_durable(tmp_path / "a" / "b" / "file", tmp_path / "never" / "there")
    assert names_in(tmp_path / "a" / "b") == []
    (tmp_path / "file").touch()
    with pytest.raises(StorageError) as caught:
        make_dir(tmp_path / "file" / "below")
    assert caught.value.hint
    with pytest.raises(StorageError):
        fsync_dir(tmp_path / "file")
    with pytest.raises(StorageError):
        unlink_durable(tmp_path / "a")
    with pytest.raises(StorageError):
        rename_durable(tmp_path / "gone", tmp_path / "x")


def test_a_link_is_replaced_in_one_step(tmp_path: Path) -> None:
    link = tmp_path / "current"
    for target in ("a", "a", "b/c", "b/c"):
        symlink_durable(target, link)
        assert str(link.readlink()) == target
        assert names_in(tmp_path) == ["current"]
    link.unlink()
    link.mkdir()
    with pytest.raises(StorageError, match="in the way"):
        symlink_durable("a", link)
    with pytest.raises(StorageError):
        symlink_durable("a", tmp_path / "gone" / "current")
    assert names_in(tmp_path) == ["current"]


def test_read_bounded(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read_bounded(tmp_path / "file", 5) == b"12345"
    assert read_bounded(tmp_path / "file", 4) is None
    assert read_bounded(tmp_path / "none", 4) is None
    with pytest.raises(StorageError):
        read_bounded(tmp_path, 4)


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EIO, StorageError)],
)
def test_system_errors_become_ours(number: int, kind: type[Exception]) -> None:
    error = translated(OSError(number, os.strerror(number)), "writing", "somewhere")
    assert type(error) is kind
    assert "somewhere" in error.message
    assert error.hint


def delete_then_fail(database: Database) -> None:
    with database.transaction():
        database.execute("DELETE FROM t")
        database.execute("NONSENSE")


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    with Database.open(tmp_path / "db") as database:
        assert database.script("one", "CREATE TABLE t (x TEXT); INSERT INTO t VALUES ('a;b');")
        assert not database.script("one", "CREATE TABLE t (x TEXT); INSERT INTO t VALUES ('a;b');")
        with pytest.raises(StorageError):
            delete_then_fail(database)
        assert database.execute("SELECT x FROM t") == [("a;b",)]
        with database.transaction():
            database.execute("INSERT INTO t VALUES (?)", ("c",))
            with pytest.raises(LocalProtocolError), database.transaction():
                pass
        # Many statements are one write, so they need a transaction; one that is refused undoes the others.
        with pytest.raises(LocalProtocolError, match="without a transaction"):
            database.execute_many("INSERT INTO t VALUES (?)", [("d",)])
        with pytest.raises(StorageError), database.transaction():
            database.execute_many("INSERT INTO t VALUES (?)", [("d",), ("e", "f")])
    with Database.open(tmp_path / "db") as database:
        assert database.execute("SELECT count(*) FROM t") == [(2,)]
        assert database.execute("PRAGMA journal_mode") == [("wal",)]
        assert database.execute("PRAGMA synchronous") == [(2,)]


def test_a_script_that_fails_or_changes_has_no_effect(tmp_path: Path) -> None:
    with Database.open(tmp_path / "db") as database:
        with pytest.raises(StorageError):
            database.script("one", "CREATE TABLE t (x TEXT); NONSENSE;")
        with pytest.raises(LocalProtocolError, match="without an end"):
            database.script("one", "CREATE TABLE t (x TEXT); CREATE TABLE u (x TEXT)")
        assert database.script("one", "CREATE TABLE t (x TEXT);")
        with pytest.raises(LocalProtocolError, match="changed"):
            database.script("one", "CREATE TABLE u (x TEXT);")


def test_a_damaged_database_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(b"this is no database at all" * 400)
    with pytest.raises(StorageError) as caught:
        Database.open(tmp_path / "db")
    assert "--rebuild" in (caught.value.hint or "")
    with pytest.raises(StorageError):
        Database.open(tmp_path / "no" / "such" / "directory")


def test_a_full_disk_is_told_apart(tmp_path: Path) -> None:
    with Database.open(tmp_path / "db") as database:
        database.execute("CREATE TABLE t (x BLOB)")
        database.execute("PRAGMA max_page_count = 5")
        with pytest.raises(DiskFull), database.transaction():
            database.execute("INSERT INTO t VALUES (zeroblob(1000000))")
        assert database.execute("SELECT count(*) FROM t") == [(0,)]


def test_a_closed_database_says_so(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "db")
    database.close()
    database.close()
    with pytest.raises(LocalProtocolError):
        database.execute("SELECT 1")


def test_transactions_of_several_threads_do_not_mix(tmp_path: Path) -> None:
    with Database.open(tmp_path / "db") as database:
        database.execute("CREATE TABLE t (x INTEGER)")
        database.execute("INSERT INTO t VALUES (0)")

        def add() -> None:
            for _ in range(25):
                with database.transaction():
                    (value,) = database.execute("SELECT x FROM t")[0]
                    database.execute("UPDATE t SET x = ?", (value + 1,))

        threads = [threading.Thread(target=add) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert database.execute("SELECT x FROM t") == [(100,)]
    assert sqlite3.threadsafety > 0
