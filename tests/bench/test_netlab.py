"""The network of namespaces: it limits, loses, counts, and is gone afterwards. Skipped where there can be none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.namespaces import namespaces, own_namespaces, program

# A laboratory removes what killed ones left, so only one test at a time may look at that.
pytestmark = pytest.mark.xdist_group("namespaces")

BENCH = Path(__file__).resolve().parent.parent.parent / "bench"
TIMEOUT = 60.0
SEND = """
import socket, sys
with socket.create_connection((sys.argv[1], 5000), 20) as to:
    to.sendall(bytes(int(sys.argv[2])))
    to.shutdown(socket.SHUT_WR)
    assert to.recv(1) == b""
"""
RECEIVE = """
import socket, sys, time
with socket.create_server((sys.argv[1], 5000)) as server:
    server.settimeout(20)
    print("ready", flush=True)
    connection, _ = server.accept()
    began, count = time.monotonic(), 0
    while data := connection.recv(65536):
        count += len(data)
    print(count, time.monotonic() - began, flush=True)
"""
HOLD = """
from netlab import laboratory
with laboratory(2, 10**8) as lab:
    print(lab.command(0)[-1], flush=True)
    input()
"""
# Gives up CAP_NET_ADMIN and CAP_SYS_ADMIN, which root has and others do not (PR_CAPBSET_DROP; at exec).
UNPRIVILEGED = """
import ctypes, os, sys
if os.geteuid() == 0:
    for capability in (12, 21):
        assert ctypes.CDLL(None).prctl(24, capability, 0, 0, 0) == 0
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.fixture
def netlab(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCH))
    import netlab

    return netlab


@pytest.fixture
def built(netlab: Any) -> Any:
    """The module, where this machine has namespaces to offer."""
    try:
        with netlab.laboratory(1, 10**8):
            pass
    except netlab.Unavailable as exc:
        pytest.skip(f"no network namespaces here: {exc}")
    return netlab


def transfer(lab: Any, source: int, sink: int, count: int) -> float:
    """Seconds that so many bytes take from one host to another, as the receiver sees it."""
    address = lab.address(sink)
    receive = [*lab.command(sink), sys.executable, "-c", RECEIVE, address]
    with program(receive) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "ready\n"
        send = [*lab.command(source), sys.executable, "-c", SEND, address, str(count)]
        subprocess.run(send, check=True, timeout=TIMEOUT)
        got, seconds = receiver.communicate(timeout=TIMEOUT)[0].split()
    assert int(got) == count
    return float(seconds)


def test_a_link_is_no_faster_than_it_says_and_counts_what_passes(built: Any) -> None:
    with built.laboratory(3, 80_000_000) as lab:
        # 10 MB/s, but for the burst that each end of the link lets through at once.
        least = (2 * 2**20 - 4 * built.BURST) / 10e6
        assert transfer(lab, 0, 1, 2 * 2**20) > least
        first, second, third = lab.traffic()
        assert 2 * 2**20 < first.sent < 2.5 * 2**20
        assert 2 * 2**20 < second.received < 2.5 * 2**20
        assert third.sent < 2**16
        assert third.received < 2**16


def test_one_host_can_have_another_rate(built: Any) -> None:
    with built.laboratory(2, 800_000_000) as lab:
        lab.limit(1, 8_000_000)
        assert transfer(lab, 0, 1, 2**20) > (2**20 - 4 * built.BURST) / 1e6


@pytest.mark.slow  # what is lost by chance may take long to come
def test_lost_packets_are_sent_again(built: Any) -> None:
    with built.laboratory(2, 800_000_000) as lab:
        try:
            lab.lose(0.05)
        except built.Unavailable as exc:
            pytest.skip(str(exc))
        transfer(lab, 0, 1, 2 * 2**20)
        sender, receiver = lab.traffic()
        assert sender.sent - receiver.received > 0.02 * 2**20


def test_nothing_is_left_after_a_failure(built: Any) -> None:
    during: list[str] = []

    def fail() -> None:
        with built.laboratory(2, 10**8):
            during.extend(own_namespaces())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert len(during) == 3
    assert own_namespaces() == []


def test_what_cannot_be_built_to_the_end_is_taken_down(
    built: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(built, "BURST", -1)
    with pytest.raises(built.Unavailable, match="tbf"), built.laboratory(2, 10**8):
        pytest.fail("it was built")
    assert own_namespaces() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_what_a_killed_run_leaves_is_removed_by_the_next(
    built: Any, number: signal.Signals
) -> None:
    with program([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, cwd=BENCH) as held:
        assert held.stdout is not None
        name = held.stdout.readline().strip()
        assert name in namespaces()
        with built.laboratory(1, 10**8):
            assert name in namespaces()  # somebody else's, who is at work
        held.send_signal(number)
        held.wait(TIMEOUT)
    if number == signal.SIGINT:
        assert name not in namespaces()
    with built.laboratory(1, 10**8):
        assert name not in namespaces()


def test_a_number_of_hosts_is_bounded(netlab: Any) -> None:
    for hosts in (0, netlab.MAX_HOSTS + 1):
        with pytest.raises(ValueError, match="hosts"), netlab.laboratory(hosts, 10**8):
            pytest.fail("it was built")


def test_what_another_run_has_removed_meanwhile_is_no_failure(built: Any) -> None:
    built._delete(iter(["peatlab-0-0-nonesuch"]))


@pytest.mark.parametrize(("bench", "row"), [("fanout", "peatnet-8"), ("far", "peatnet-wan")])
def test_without_the_right_to_make_namespaces_there_is_one_clear_line(bench: str, row: str) -> None:
    """What the scripts say to those who are not root."""
    ran = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED, str(BENCH / f"{bench}.py"), "--only", row],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(BENCH.parent)},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )
    assert ran.returncode == 1
    assert ran.stdout == ""
    (line,) = ran.stderr.splitlines()
    assert line.startswith(f"{bench}: ")
    assert "namespaces" in line or "install" in line
