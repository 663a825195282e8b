"""The command as people and scripts run it: real processes, without a network."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from blake3 import blake3
from support.nodes import environment, peatnet
from support.waiting import wait_until

from peatnet import __version__
from peatnet.errors import AlreadyExists, ConfigError, DiskFull, UsageError

VERBS = {
    *("init", "id", "up", "peers", "trust"),
    *("publish", "models", "show", "get", "withdraw"),
    *("pin", "unpin", "rm", "verify", "gc", "schema", "demo"),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny-q5_k_m.gguf"
    path.write_bytes(os.urandom(1_500_000))
    return path


def test_help_lists_every_verb_and_imports_nothing_slow(tmp_path: Path) -> None:
    shown = peatnet(tmp_path, "--help")
    assert shown.code == 0
    words = {line.split()[0] for line in shown.out.splitlines() if line.startswith("  ")}
    assert words >= VERBS
    assert "\x1b" not in shown.out
    assert peatnet(tmp_path).out == shown.out
    # Importing any of these takes longer than all of --help may take (0.3 s in all).
    code = (
        "import sys; from peatnet.cli import main; sys.argv = ['peatnet', '--help']; main();"
        "slow = {'libp2p', 'trio', 'pydantic', 'httpx', 'starlette', 'hypercorn', 'rich', 'structlog',"
        " 'sqlite3', 'blake3', 'cryptography', 'asyncio'};"
        "print(sorted(slow & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=environment(tmp_path),
    )
    assert done.stderr == "[]\n"
    assert peatnet(tmp_path, "--version").out == f"peatnet {__version__}\n"
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_a_command(data: Path) -> None:
    typo = peatnet(data, "pubish").failed(UsageError)
    assert "Did you mean 'publish'?" in typo.err
    assert "hint:  see `peatnet --help`" in typo.err
    wrong = peatnet(data, "get", "m", "--source", "torrent", "--json").failed(UsageError)
    error = json.loads(wrong.err.splitlines()[-1])["error"]
    assert (error["slug"], error["exit_code"]) == ("usage", 2)
    assert "'torrent'" in error["message"]
    assert not data.exists()


@pytest.mark.parametrize(
    ("option", "key", "wrong"),
    [
        ("--peer", "peers", "/ip4/192.0.2.1/tcp/7411"),
        ("--listen", "listen", "/ip4/127.0.0.1/udp/1"),
        ("--trust", "trusted_publishers", "nonsense"),
    ],
)
def test_addresses_and_publishers_that_are_none(
    data: Path, option: str, key: str, wrong: str
) -> None:
    typed = peatnet(data, "up", "--no-mdns", option, wrong).failed(UsageError)
    assert repr(wrong) in typed.err
    assert not data.exists()
    data.mkdir()
    (data / "config.toml").write_text(f'{key} = ["{wrong}"]\n')
    written = peatnet(data, "up", "--no-mdns").failed(ConfigError)
    assert f"{data / 'config.toml'}: {key}: {wrong!r}" in written.err


def test_rates_that_are_none_are_complained_of_by_the_name_of_their_option(data: Path) -> None:
    wrong = peatnet(data, "limits", "--down", "10MB/s", "--up", "5mb").failed(UsageError)
    assert "--up: '5mb' may be bits or bytes: write MB/s or mbit/s" in wrong.err


def test_an_identity_is_made_once(data: Path) -> None:
    made = peatnet(data, "init", "--json")
    assert f"new node identity in {data}" in made.err
    answer = made.json()
    assert answer["data_dir"] == str(data)
    assert (data / "identity.key").stat().st_mode & 0o777 == 0o600
    # The directory may be given before the verb, after it, or in the environment.
    other = data.parent / "other"
    for place in (["--data-dir", str(data), "id"], ["id", "--data-dir", str(data)]):
        assert peatnet(other, *place).out == answer["peer_id"] + "\n"
    again = peatnet(data, "id", "--json")
    assert (again.json(), again.err) == ({"peer_id": answer["peer_id"]}, "")
    assert not other.exists()


def test_a_file_goes_in_and_comes_out(data: Path, model: Path) -> None:
    published = peatnet(data, "publish", model, "--id", "tiny")
    assert "guessed from the file's name: " in published.err
    blob_hash = published.json()["blob_hash"]
    assert blob_hash == blake3(model.read_bytes()).hexdigest()
    (row,) = peatnet(data, "models", "--json").json()
    assert (row["model_id"], row["status"], row["blob_hash"]) == ("tiny", "ready", blob_hash)
    out = data.parent / "out.gguf"
    got = peatnet(data, "get", blob_hash[:8], "--out", out, "--json").json()
    assert (got["path"], got["blob_hash"], got["size_bytes"]) == (str(out), blob_hash, 1_500_000)
    assert out.read_bytes() == model.read_bytes()
    quiet = peatnet(data, "get", "tiny", "--out", out, "--force")
    assert (quiet.out, quiet.err) == (f"{out}\n", "")
    peatnet(data, "get", "tiny", "--out", out, "--json").failed(AlreadyExists)


def test_a_reader_that_leaves_is_no_error(data: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f'"{sys.executable}" -m peatnet schema; echo "ended $?" >&2'],
        stdout=_closed_pipe(),
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env=environment(data),
    )
    assert done.stderr == "ended 141\n"


def _closed_pipe() -> int:
    read, write = os.pipe()
    os.close(read)
    return write


def _open_files(pid: int) -> str:
    names = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since
            names.append(str(descriptor.readlink()))
    return "\n".join(names)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_output_that_has_no_room_is_no_bug(data: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "peatnet", "schema"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(data),
            check=False,
        )
    assert done.returncode == DiskFull.exit_code
    assert done.stderr.startswith("error: the output cannot be written: ")


def test_control_c_while_hashing_publishes_nothing(data: Path, tmp_path: Path) -> None:
    big = tmp_path / "big.gguf"
    with big.open("wb") as file:
        file.truncate(64 << 30)  # sparse; hashing it takes a minute at least
    (tmp_path / "data").mkdir()
    (data / "config.toml").write_text("free_floor_bytes = 0\n")
    with subprocess.Popen(
        [sys.executable, "-m", "peatnet", "publish", str(big), "--id", "big", "--mode", "hardlink"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(data),
        text=True,
    ) as publishing:
        try:
            wait_until(
                lambda: "big.gguf" in _open_files(publishing.pid) or None, 30, what="hashing"
            )
            publishing.send_signal(signal.SIGINT)
            out, err = publishing.communicate(timeout=30)
        finally:
            publishing.kill()
    assert (publishing.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert peatnet(data, "models", "--json").json() == []
    assert peatnet(data, "gc", "--json").json()["freed_bytes"] == 0


def test_a_terminal_gets_colors_a_bar_and_a_summary(data: Path, model: Path) -> None:
    environ = environment(data) | {"TERM": "xterm-256color", "COLUMNS": "100"}
    del environ["NO_COLOR"]

    def run(*arguments: str) -> str:
        leader, follower = pty.openpty()
        child = subprocess.Popen(
            [sys.executable, "-m", "peatnet", *arguments],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env=environ,
        )
        os.close(follower)
        shown = b""
        while True:
            try:
                part = os.read(leader, 65536)
            except OSError:  # how Linux tells that the other side is closed
                break
            shown += part
        os.close(leader)
        child.wait(30)
        return shown.decode()

    published = run("publish", str(model), "--id", "tiny")
    assert "hashing" in published
    assert '  "model_id": "tiny"' in published
    assert "\x1b[32mready\x1b[0m" in run("models")
    assert "1.4 MiB, here already" in run("get", "tiny")
    verified = run("verify")
    assert "verifying" in verified
    assert "verified: 1 blob, 1.4 MiB, none damaged" in verified
    assert "\x1b[1;31merror:\x1b[0m no model" in run("show", "nosuch")
