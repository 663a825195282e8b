"""The long wire: it delays, limits, loses, counts, and is gone afterwards. Skipped where there can be none."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import long_wire
import pytest
from common import Unavailable
from long_wire import Link, WireLab, check
from support.namespaces import namespaces, own_namespaces, program
from support.waiting import wait_until

# What killed runs left is removed by the next one: see test_netlab.
pytestmark = pytest.mark.xdist_group("namespaces")

ROOT = Path(__file__).resolve().parent.parent.parent
TIMEOUT = 60.0
SHORT = Link(80_000_000, 0.01)
# Echoes the first byte, then takes all that comes.
RECEIVE = """
import json, socket, sys, time
with socket.create_server((sys.argv[1], 5000)) as server:
    server.settimeout(20)
    print("ready", flush=True)
    connection, _ = server.accept()
    began = time.monotonic()
    connection.sendall(connection.recv(1))
    congestion = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    count = 0
    while data := connection.recv(65536):
        count += len(data)
    seconds = time.monotonic() - began
print(json.dumps({"count": count, "seconds": seconds, "congestion": congestion.decode().strip("\\0")}))
"""
SEND = """
import json, socket, sys, time
began = time.monotonic()
with socket.create_connection((sys.argv[1], 5000), 20) as to:
    connected = time.monotonic()
    to.sendall(b"x")
    to.recv(1)
    echoed = time.monotonic()
    to.sendall(bytes(int(sys.argv[2])))
    to.shutdown(socket.SHUT_WR)
    to.recv(1)
    congestion = to.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
print(json.dumps({"trips": [connected - began, echoed - connected], "congestion": congestion.decode().strip("\\0")}))
"""
SHOUT = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
    for _ in range(int(sys.argv[2])):
        out.sendto(bytes(1000), (sys.argv[1], 5000))
"""
HOLD = """
from long_wire import Link, long_wire
with long_wire(Link(10**8, 0.01)) as lab:
    print(lab.command(0)[-1], lab._wire.pid, flush=True)
    input()
"""


@pytest.fixture
def built() -> Any:
    """The module, where this machine has what it needs."""
    try:
        with long_wire.long_wire(SHORT):
            pass
    except Unavailable as exc:
        pytest.skip(f"no long wire here: {exc}")
    return long_wire


def transfer(lab: WireLab, count: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """So many bytes from the first host to the second; what the sender and the receiver saw."""
    address = lab.address(1)
    with program([*lab.command(1), sys.executable, "-c", RECEIVE, address]) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "ready\n"
        send = [*lab.command(0), sys.executable, "-c", SEND, address, str(count)]
        sent = subprocess.run(send, check=True, timeout=TIMEOUT, capture_output=True)
        received = receiver.communicate(timeout=TIMEOUT)[0]
    return json.loads(sent.stdout), json.loads(received)


def test_there_and_back_takes_as_long_as_it_says(built: Any) -> None:
    with built.long_wire(Link(80_000_000, 0.2)) as lab:
        sender, _ = transfer(lab, 0)
        assert min(sender["trips"]) >= 0.2


def test_it_is_no_faster_than_it_says_and_counts_what_passes(built: Any) -> None:
    with built.long_wire(Link(8_000_000, 0.01)) as lab:
        _, receiver = transfer(lab, 2**20)
        assert receiver["count"] == 2**20
        assert receiver["seconds"] > 2**20 / 1e6
        first, second = lab.traffic()
        assert 2**20 < second.received <= first.sent < 1.5 * 2**20
        assert first.received <= second.sent < 2**18


def test_each_packet_has_arrived_or_was_lost_or_found_no_room(built: Any) -> None:
    with built.long_wire(Link(8_000_000, 0.01, loss=0.25)) as lab:
        before = lab.passed()[0]
        address = lab.address(1)
        shout = [*lab.command(0), sys.executable, "-c", SHOUT, address, "1000"]
        subprocess.run(shout, check=True, timeout=TIMEOUT)

        def gone() -> int:
            there = lab.passed()[0]
            return int(there.packets + there.lost + there.overflowed)

        wait_until(lambda: gone() >= before.packets + before.lost + 1000)
        there = lab.passed()[0]
        assert there.lost > 0
        assert there.overflowed > 0  # a megabyte at once meets a queue of a quarter


def test_both_ends_have_the_congestion_control_that_is_asked_for(built: Any) -> None:
    with built.long_wire(SHORT, "reno") as lab:
        assert lab.congestion_control() == "reno"
        assert [end["congestion"] for end in transfer(lab, 0)] == ["reno", "reno"]
    with built.long_wire(SHORT) as lab:
        used = lab.congestion_control()
        assert [end["congestion"] for end in transfer(lab, 0)] == [used, used]


def test_one_that_there_is_not_leaves_nothing(built: Any) -> None:
    with (
        pytest.raises(Unavailable, match="congestion"),
        built.long_wire(SHORT, "nonesuch"),
    ):
        pytest.fail("it was built")
    assert own_namespaces() == []


def test_nothing_is_left_after_a_failure(built: Any) -> None:
    during: list[str] = []
    wires: list[int] = []

    def fail() -> None:
        with built.long_wire(SHORT) as lab:
            during.extend(own_namespaces())
            wires.append(lab._wire.pid)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert len(during) == 2
    assert own_namespaces() == []
    assert not Path(f"/proc/{wires[0]}").exists()


def test_a_wire_that_ends_is_missed(built: Any) -> None:
    with built.long_wire(SHORT) as lab:
        lab._wire.kill()
        lab._wire.wait(TIMEOUT)
        with pytest.raises(Unavailable, match="the wire ended"):
            lab.passed()


def test_the_wire_of_a_killed_run_ends_and_the_next_removes_the_rest(built: Any) -> None:
    hold = [sys.executable, "-c", HOLD]
    with program(hold, stdin=subprocess.PIPE, cwd=ROOT / "bench") as held:
        assert held.stdout is not None
        name, pid = held.stdout.readline().split()
        assert name in namespaces()
        wire = os.pidfd_open(int(pid))
        try:
            held.send_signal(signal.SIGKILL)
            held.wait(TIMEOUT)
            assert select.select([wire], [], [], TIMEOUT)[0], "the wire is still there"
        finally:
            os.close(wire)
    with built.long_wire(SHORT):
        assert name not in namespaces()


def test_without_its_devices_it_says_so(built: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(built, "TUN", Path("/dev/net/nonesuch"))
    with pytest.raises(Unavailable, match="nonesuch: No such file"):
        check()


@pytest.mark.slow
def test_the_bench_reports_what_it_measured_and_over_what(built: Any, tmp_path: Path) -> None:
    out = tmp_path / "far.json"
    options = ["--size", "256KiB", "--rounds", "1", "--only", "peatnet-wan,peatnet-stream-wan"]
    ran = subprocess.run(
        [sys.executable, "bench/far.py", *options, "--json", "--out", str(out)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "FAR_CONGESTION": "reno"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["skipped"] == {}
    assert [row["name"] for row in found["rows"]] == ["peatnet-wan", "peatnet-stream-wan"]
    for row in found["rows"]:
        assert row["median"] > 1
        assert row["source_sent"] > 1
        assert row["link_rtt_ms"] == 150
        assert row["congestion_control"] == "reno"
