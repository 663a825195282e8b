"""One model from the first of several machines to all others, over ssh.

Nothing is copied there but short shell scripts on stdin, and nothing is read from there but what they print: no keys,
no settings, no files. peatnet must be installed on each host. What a run makes there lies in one new directory,
which is removed at the end; what it starts is one process a host, which is ended by its process id, and only if
that process is still the one that was started.

A host is an ssh destination, or ``local:NAME``: then the same scripts run on this machine, through sh.
"""

from __future__ import annotations

import json
import re
import secrets
import shlex
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

MAX_HOSTS = 256
MAX_OUTPUT = 1024 * 1024
COMMAND_TIMEOUT = 60.0
READY_TIMEOUT = 120.0
# A round gets this long plus the time at 1 MB/s.
PATIENCE = 300.0
LOOK_EVERY = 1.0

# No option of ssh's, and nothing that a shell would see as more than a word.
_DESTINATION = re.compile(r"(ssh://)?[A-Za-z0-9_\[][A-Za-z0-9._@:%\[\]-]{0,250}")
_LOCAL = re.compile(r"local:[A-Za-z0-9._-]{1,64}")

_SSH = (
    *("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"),
    *("-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3"),
)

# What every script begins with: the command, and the run's directory where there is one.
_HEAD = "set -eu; peatnet={peatnet}; dir={directory}\n"
_LOOK = """
command -v "$peatnet" >/dev/null || { echo "there is no command $peatnet" >&2; exit 3; }
"$peatnet" --version
uname -srm
getconf _NPROCESSORS_ONLN
(umask 077; mktemp -d "${TMPDIR:-/tmp}/peatnet-bench.XXXXXXXX")
"""
_PUBLISH = """
head -c {size} /dev/urandom >"$dir/model.bin"
"$peatnet" --data-dir "$dir/node" publish "$dir/model.bin" --id {model} --json >/dev/null
rm "$dir/model.bin"
"""
_START = """
[ {fresh} = no ] || rm -rf "$dir/node"
nohup "$peatnet" --data-dir "$dir/node" up {options} </dev/null >"$dir/ready" 2>"$dir/log" &
echo $! >"$dir/pid"
for _ in $(seq {tries}); do
    if [ -s "$dir/ready" ]; then cat "$dir/ready"; exit 0; fi
    kill -0 "$(cat "$dir/pid")" 2>/dev/null || break
    sleep 0.2
done
tail -n 20 "$dir/log" >&2
exit 4
"""
_KNOWS = """
"$peatnet" --data-dir "$dir/node" models --json
echo
"$peatnet" --data-dir "$dir/node" peers --json
"""
_GET = """
read -r _
"$peatnet" --data-dir "$dir/node" get {model} --source peers --json
"""
_STOP = """
ours() { ps -o args= -p "$pid" 2>/dev/null | grep -qF "$dir/node"; }
if [ -s "$dir/pid" ]; then
    pid=$(cat "$dir/pid")
    ours && kill "$pid" || true
    for _ in $(seq 50); do ours || break; sleep 0.2; done
    ours && kill -9 "$pid" || true
    rm "$dir/pid"
fi
"""
_REMOVE = 'case $dir in */peatnet-bench.????????) rm -rf "$dir" ;; esac\n'


class HostsError(Exception):
    """The hosts cannot be used, and why."""


@dataclass(slots=True)
class Host:
    """One machine.

    Attributes:
        name: as the list has it.
        directory: the run's, there; "" before it is made.
    """

    name: str
    peatnet: str = "peatnet"
    directory: str = ""
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def local(self) -> bool:
        """Whether it is this machine, without ssh."""
        return self.name.startswith("local:")

    def run(self, script: str, timeout: float = COMMAND_TIMEOUT) -> str:
        """Run a script there and return what it prints.

        Raises:
            HostsError: it failed or took too long; with what it said.
        """
        try:
            ran = subprocess.run(
                self._command(),
                input=self._whole(script),
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as exc:
            raise HostsError(f"{self.name}: no end in {timeout:.0f} s") from exc
        except OSError as exc:
            raise HostsError(f"{self.name}: {exc}") from exc
        if ran.returncode != 0:
            raise HostsError(
                f"{self.name}: exit code {ran.returncode}: {ran.stderr.strip()[-2000:]}"
            )
        return ran.stdout[:MAX_OUTPUT]

    def begin(self, script: str) -> subprocess.Popen[str]:
        """Start a script there that waits for a line on stdin."""
        # The script itself cannot come on stdin then.
        return subprocess.Popen(
            self._command(self._whole(script)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )

    def _command(self, script: str | None = None) -> list[str]:
        if self.local:
            return ["sh", "-s"] if script is None else ["sh", "-c", script]
        there = "sh -s" if script is None else f"sh -c {shlex.quote(script)}"
        return [*_SSH, self.name, there]

    def _whole(self, script: str) -> str:
        head = _HEAD.format(
            peatnet=shlex.quote(self.peatnet), directory=shlex.quote(self.directory)
        )
        return head + script


Say = Callable[[str], None]


def read_hosts(path: Path) -> list[Host]:
    """The hosts of a list: one a line; empty lines and what follows a ``#`` do not count.

    Raises:
        HostsError: it cannot be read, or is no such list.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise HostsError(f"{path}: {exc}") from exc
    names = [name for line in lines if (name := line.partition("#")[0].strip())]
    for name in names:
        if not (_LOCAL if name.startswith("local:") else _DESTINATION).fullmatch(name):
            raise HostsError(f"{path}: not an ssh destination: {name[:80]!r}")
    if not 2 <= len(names) <= MAX_HOSTS or len(set(names)) < len(names):
        raise HostsError(f"{path}: 2 to {MAX_HOSTS} different hosts are needed, a line each")
    return [Host(name) for name in names]


def measure_hosts(
    hosts: Sequence[Host], size: int, rounds: int, port: int, peatnet: str, say: Say
) -> dict[str, Any]:
    """Send a model of random bytes from the first host to all others, a number of times, and return the report.

    Args:
        hosts: at least two.
        size: of the model, in bytes.
        rounds: how often; nodes are started anew for each, sinks with nothing.
        port: that nodes listen on, and the one after it; hosts that are this machine take free ones.
        peatnet: the command there.
        say: told what happens.

    Raises:
        HostsError: a host failed; what was started on any of them has been stopped, as far as it can be reached.
    """
    model = f"bench-{secrets.token_hex(4)}"
    started = datetime.now(UTC).isoformat(timespec="seconds")
    with ThreadPoolExecutor(len(hosts)) as pool:
        try:
            for host in hosts:
                host.peatnet = peatnet
            list(pool.map(_look, hosts))
            say(f"{hosts[0].name}: publishing")
            hosts[0].run(_PUBLISH.format(size=size, model=model), PATIENCE + size / 1e6)
            found = []
            for number in range(1, rounds + 1):
                found.append(_round(pool, hosts, size, port, model))
                say(f"round {number}/{rounds}: the last after {found[-1]['last_s']:.2f} s")
        finally:
            _clean_up(pool, hosts, say)
    return {
        "bench": "hosts",
        "started": started,
        "size_bytes": size,
        "hosts": [{"name": host.name, **host.facts} for host in hosts],
        "rounds": found,
    }


def _look(host: Host) -> None:
    version, system, cores, directory = host.run(_LOOK).splitlines()[-4:]
    host.directory = directory
    host.facts = {"version": version, "system": system, "cores": cores}


def _round(
    pool: ThreadPoolExecutor, hosts: Sequence[Host], size: int, port: int, model: str
) -> dict[str, Any]:
    source, sinks = hosts[0], hosts[1:]
    ready = _start(source, port, [], fresh=False)
    known: list[str] = []
    for address in ready["addrs"]:
        known += ["--peer", address]
    known += ["--trust", ready["peer_id"]]
    peers = list(pool.map(lambda sink: _start(sink, port, known, fresh=True), sinks))
    list(pool.map(lambda sink: _wait_until_ready(sink, model, len(sinks)), sinks))
    patience = PATIENCE + size / 1e6
    commands = [sink.begin(_GET.format(model=model)) for sink in sinks]
    try:
        began = time.monotonic()
        for command in commands:
            assert command.stdin is not None
            command.stdin.write("go\n")
            command.stdin.flush()
        waiting = [
            pool.submit(_got, sink, command, began, patience)
            for sink, command in zip(sinks, commands, strict=True)
        ]
        got = [future.result() for future in waiting]
    finally:
        for command in commands:
            command.kill()  # ours, here; what it ran there ends with its node
            command.communicate()
        list(pool.map(lambda host: host.run(_STOP), hosts))
    if len({result["blob_hash"] for result in got}) != 1:
        raise HostsError("the sinks have different files")
    names = {peer["peer_id"]: sink.name for peer, sink in zip(peers, sinks, strict=True)}
    names[ready["peer_id"]] = source.name
    last = max(result["seconds"] for result in got)
    return {
        "sinks": {
            sink.name: {
                "seconds": result["seconds"],
                "since_start_s": result["since_start_s"],
                "bytes_by_host": {
                    names.get(peer.removeprefix("peer:"), peer): count
                    for peer, count in result["bytes_by_source"].items()
                },
            }
            for sink, result in zip(sinks, got, strict=True)
        },
        "last_s": last,
        "aggregate_mb_s": size * len(sinks) / last / 1e6,
        "source_sent": sum(
            result["bytes_by_source"].get(f"peer:{ready['peer_id']}", 0) for result in got
        )
        / size,
    }


def _start(host: Host, port: int, known: Iterable[str], *, fresh: bool) -> dict[str, Any]:
    listen = f"/ip4/0.0.0.0/tcp/{0 if host.local else port}"
    options = shlex.join(["--listen", listen, "--no-mdns", "--fetch", "none", *known])
    script = _START.format(
        options=options, tries=int(READY_TIMEOUT * 5), fresh="yes" if fresh else "no"
    )
    ready: dict[str, Any] = json.loads(host.run(script, READY_TIMEOUT + COMMAND_TIMEOUT))
    return ready


def _wait_until_ready(sink: Host, model: str, others: int) -> None:
    """Until it is connected to all others and has heard of the model."""
    deadline = time.monotonic() + READY_TIMEOUT
    while True:
        models, peers = (json.loads(text) for text in sink.run(_KNOWS).strip().split("\n\n"))
        connected = sum(peer["connected"] for peer in peers)
        if connected >= others and any(each["model_id"] == model for each in models):
            return
        if time.monotonic() > deadline:
            raise HostsError(f"{sink.name}: {connected} connections, {len(models)} models")
        time.sleep(LOOK_EVERY)


def _got(
    sink: Host, command: subprocess.Popen[str], began: float, patience: float
) -> dict[str, Any]:
    try:
        out, err = command.communicate(timeout=patience)
    except subprocess.TimeoutExpired as exc:
        raise HostsError(f"{sink.name}: not done in {patience:.0f} s") from exc
    if command.returncode != 0:
        raise HostsError(f"{sink.name}: get failed: {err.strip()[-2000:]}")
    result: dict[str, Any] = json.loads(out[:MAX_OUTPUT])
    return {**result, "since_start_s": time.monotonic() - began}


def _clean_up(pool: ThreadPoolExecutor, hosts: Sequence[Host], say: Say) -> None:
    def clean(host: Host) -> None:
        try:
            host.run(_STOP + _REMOVE)
        except HostsError as exc:
            say(f"{host.name}: not cleaned up, see {host.directory}: {exc}")

    list(pool.map(clean, [host for host in hosts if host.directory]))
