"""Real nodes as processes: started, asked, stopped, killed, and gone when the test is over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGTERM, Signals
from typing import Any, Protocol

from peatnet.api.client import ControlClient
from support.waiting import wait_until

START_TIMEOUT = 30.0
STOP_TIMEOUT = 5.0  # what `peatnet up` promises
CLI_TIMEOUT = 60.0
SUPPORT = Path(__file__).resolve().parent
LOG_TAIL = 6_000


def environment(data_dir: Path) -> dict[str, str]:
    """The environment of a child: ours, with its own data directory and nothing of the user's."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PEATNET_")}
    env["PEATNET_DATA_DIR"] = str(data_dir)
    env["HOME"] = str(data_dir.parent)
    env["COLUMNS"] = "200"
    env["NO_COLOR"] = "1"
    env["PYTHONPATH"] = str(SUPPORT.parent.parent)  # for the rogue programs, which are not modules
    env.pop("XDG_DATA_HOME", None)
    return env


def program_of(rogue: dict[str, Any] | None) -> tuple[list[str], dict[str, str]]:
    """What the interpreter runs, and with which environment: peatnet, or peatnet with faults."""
    if rogue is None:
        return ["-m", "peatnet"], {}
    return [str(SUPPORT / "rogue_node.py")], {"ROGUE": json.dumps(rogue)}


@dataclass
class Ran:
    """A finished `peatnet` command."""

    arguments: list[str]
    code: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.code == 0, self
        return json.loads(self.out)

    def ok(self) -> Ran:
        assert self.code == 0, self
        return self

    def failed(self, error: type[Any]) -> Ran:
        """Asserts the exit code of this error class, its one clear line, and a quiet stdout."""
        assert self.code == error.exit_code, (
            f"expected {error.__name__} ({error.exit_code}): {self}"
        )
        assert "error:" in self.err, self
        assert "Traceback" not in self.err, self
        assert self.out == "", self
        return self


def peatnet(
    data_dir: Path,
    *arguments: str | Path,
    timeout: float = CLI_TIMEOUT,
    rogue: dict[str, Any] | None = None,
    unprivileged: bool = False,
) -> Ran:
    """Runs one `peatnet` command on a data directory to its end.

    Args:
        data_dir: the data directory.
        arguments: the verb and its arguments.
        timeout: seconds after which the test fails.
        rogue: faults to build in, see support/rogue_node.py.
        unprivileged: file modes count, even for root; see support/unprivileged.py.
    """
    words = [str(word) for word in arguments]
    program, extra = program_of(rogue)
    if unprivileged:
        program = [str(SUPPORT / "unprivileged.py")]
    done = subprocess.run(
        [sys.executable, *program, *words],
        env=environment(data_dir) | extra,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return Ran(words, done.returncode, done.stdout, done.stderr)


def finish(command: subprocess.Popen[str], timeout: float = CLI_TIMEOUT) -> Ran:
    """Waits for a command that `Node.start` started; kills it when it takes too long."""
    try:
        out, err = command.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        command.kill()
        command.communicate()
        raise
    return Ran([str(word) for word in command.args], command.returncode, out, err)  # type: ignore[union-attr]  # a list, always


class Killable(Protocol):
    """A process that `Cluster.close` can end."""

    def kill(self) -> None: ...


class Child:
    """A process of ours, with its output in files; killed at the latest by `Cluster.close`."""

    def __init__(self, name: str, command: list[str], env: dict[str, str], log_dir: Path) -> None:
        self.name = name
        log_dir.mkdir(parents=True, exist_ok=True)
        self.out_path = log_dir / f"{name}.stdout"
        self.log_path = log_dir / f"{name}.stderr"
        # Appended to, so that a restarted node's log follows the one before.
        self._out_start = self.out_path.stat().st_size if self.out_path.exists() else 0
        with self.out_path.open("ab") as out, self.log_path.open("ab") as err:
            self.process = subprocess.Popen(
                command, env=env, stdout=out, stderr=err, stdin=subprocess.DEVNULL
            )

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def stdout(self) -> str:
        """What this run, and not the ones before it, wrote to stdout."""
        with self.out_path.open("rb") as file:
            file.seek(self._out_start)
            return file.read().decode(errors="replace")

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def first_line(self, timeout: float = START_TIMEOUT) -> str:
        """The first complete line on stdout.

        Raises:
            AssertionError: it did not come in time, or the process ended without one.
        """

        def line() -> str | None:
            text = self.stdout()
            if "\n" in text:
                return text.partition("\n")[0]
            assert self.alive, f"{self.name} ended with {self.process.returncode}: {self.tail()}"
            return None

        found = wait_until(line, timeout, what=f"{self.name} to say that it is ready")
        assert found is not None
        return found

    def tail(self) -> str:
        return self.log()[-LOG_TAIL:]

    def kill(self) -> None:
        """SIGKILL, as a power cut would; returns when it is gone."""
        if self.alive:
            self.process.kill()
        self.process.wait(10)

    def stop(self, sig: Signals = SIGTERM, timeout: float = STOP_TIMEOUT) -> int:
        """Asks it to stop, and returns its exit code; fails when it takes too long."""
        self.process.send_signal(sig)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
            raise AssertionError(
                f"{self.name} did not stop within {timeout:g} s: {self.tail()}"
            ) from None


@dataclass
class Node:
    """One node: a data directory, and while it is up a process."""

    name: str
    data_dir: Path
    log_dir: Path
    child: Child | None = None
    peer_id: str = ""
    addrs: list[str] = field(default_factory=list)

    # -- life ---------------------------------------------------------------------------------

    def up(self, *options: str, rogue: dict[str, Any] | None = None, ready: bool = True) -> Node:
        """Starts `peatnet up` on a free port of the loopback and waits until it is ready.

        Args:
            options: further options; `--listen` and `--no-mdns` are given.
            rogue: faults to build in, see support/rogue_node.py.
            ready: False: do not wait.
        """
        assert self.child is None or not self.child.alive, f"{self.name} is up already"
        listen = () if "--listen" in options else ("--listen", "/ip4/127.0.0.1/tcp/0")
        program, extra = program_of(rogue)
        command = [sys.executable, *program, "up", *listen, "--no-mdns", *options]
        self.child = Child(self.name, command, environment(self.data_dir) | extra, self.log_dir)
        if ready:
            self.wait_ready()
        return self

    def wait_ready(self) -> None:
        assert self.child is not None
        line = json.loads(self.child.first_line())
        assert set(line) == {"peer_id", "addrs"}
        self.peer_id = line["peer_id"]
        self.addrs = line["addrs"]
        assert self.addrs
        assert all(addr.endswith(f"/p2p/{self.peer_id}") for addr in self.addrs)

    @property
    def addr(self) -> str:
        return self.addrs[0]

    @property
    def port(self) -> int:
        return int(self.addr.split("/tcp/")[1].split("/")[0])

    @property
    def pid(self) -> int:
        assert self.child is not None
        return self.child.process.pid

    def kill(self) -> None:
        assert self.child is not None
        self.child.kill()

    def signal(self, sig: Signals) -> None:
        assert self.child is not None
        self.child.process.send_signal(sig)

    def stop(self, sig: Signals = SIGTERM) -> None:
        """A clean stop: exit code 0 within 5 s, and nothing on stdout but the first line."""
        assert self.child is not None
        assert self.child.stop(sig) == 0, self.child.tail()
        assert len(self.child.stdout().splitlines()) == 1

    def log(self) -> str:
        assert self.child is not None
        return self.child.log()

    # -- asking -------------------------------------------------------------------------------

    def run(self, *arguments: str | Path, timeout: float = CLI_TIMEOUT) -> Ran:
        return peatnet(self.data_dir, *arguments, timeout=timeout)

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Starts a command and does not wait for it; `finish` does."""
        return subprocess.Popen(
            [sys.executable, "-m", "peatnet", *map(str, arguments)],
            env=environment(self.data_dir),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def json(self, *arguments: str | Path, timeout: float = CLI_TIMEOUT) -> Any:
        """Runs a verb with --json, which must succeed, and returns what it printed."""
        return self.run(*arguments, "--json", timeout=timeout).json()

    def call(self, verb: str, **params: Any) -> Any:
        """One verb over the control socket, from here: for polling, where a process each is too dear."""
        return ControlClient(self.data_dir / "control.sock").call(verb, params)

    def models(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.call("models")
        return found

    def model(self, model_id: str) -> dict[str, Any] | None:
        found = [model for model in self.models() if model["model_id"] == model_id]
        assert len(found) <= 1, found
        return found[0] if found else None

    def wait_model(self, model_id: str, timeout: float = 30) -> dict[str, Any]:
        """Waits until the node's catalogue has the model."""
        found = wait_until(
            lambda: self.model(model_id), timeout, what=f"{self.name} to know {model_id}"
        )
        assert found is not None
        return found

    def wait_status(self, model_id: str, status: str, timeout: float = 30) -> dict[str, Any]:
        """Waits until the model is in a state here."""

        def there() -> dict[str, Any] | None:
            model = self.model(model_id)
            return model if model is not None and model["status"] == status else None

        try:
            found = wait_until(there, timeout, what=f"{self.name}: {model_id} to be {status}")
        except AssertionError as exc:
            raise AssertionError(f"{exc}; it is {self.model(model_id)}") from exc
        assert found is not None
        return found

    def wait_log(self, *texts: str, timeout: float = 30) -> str:
        """Waits for a line in the node's log that holds all these texts, and returns the line."""

        def line() -> str | None:
            lines = self.log().splitlines()
            return next((line for line in lines if all(text in line for text in texts)), None)

        found = wait_until(line, timeout, what=f"{self.name} to log {texts}")
        assert found is not None
        return found

    def wait_connected(self, other: Node, timeout: float = 30) -> None:
        wait_until(
            lambda: other.peer_id in self.connected(),
            timeout,
            what=f"{self.name} to be connected to {other.name}",
        )

    def copy_of(self, model_id: str) -> Path:
        """The verified file of a model that is ready here."""
        model = self.model(model_id)
        assert model is not None
        assert model["status"] == "ready", model
        assert model["download_progress"] == 1.0
        return Path(model["local_path"])

    def configure(self, **keys: float | str) -> Node:
        """Writes config.toml; before `up`."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        lines = [f"{key} = {json.dumps(value)}\n" for key, value in keys.items()]
        (self.data_dir / "config.toml").write_text("".join(lines))
        return self

    def connected(self) -> set[str]:
        return {peer["peer_id"] for peer in self.call("peers") if peer["connected"]}

    def banned(self) -> set[str]:
        return {peer["peer_id"] for peer in self.call("peers") if peer["banned_until"]}

    # -- the disk -----------------------------------------------------------------------------

    def partial_file(self, blob_hash: str) -> Path:
        return self.data_dir / "partial" / f"{blob_hash}.blob"

    def blob_file(self, blob_hash: str) -> Path:
        return self.data_dir / "blobs" / blob_hash[:2] / f"{blob_hash}.blob"


class Cluster:
    """All nodes and other processes of one test; `close` leaves none of them running."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.nodes: dict[str, Node] = {}
        self.others: list[Killable] = []

    def node(self, name: str, data_dir: Path | None = None) -> Node:
        """A node of this name, not started."""
        assert name not in self.nodes
        node = Node(name, data_dir or self.root / name, self.root / "logs")
        self.nodes[name] = node
        return node

    def up(self, name: str, *options: str, **kwargs: Any) -> Node:
        """A node of this name, started and ready."""
        return self.node(name).up(*options, **kwargs)

    def own(self, child: Killable) -> None:
        """Has a further process killed when the test is over."""
        self.others.append(child)

    def logs(self) -> dict[str, str]:
        """The end of each log, by name, for the report of a failed test."""
        folder = self.root / "logs"
        return {
            path.name: path.read_text(errors="replace")[-LOG_TAIL:]
            for path in sorted(folder.glob("*.std*"))
        }

    def close(self) -> None:
        """Kills everything that is still running, each by its own process id."""
        children = [node.child for node in self.nodes.values() if node.child is not None]
        for child in [*children, *self.others]:
            child.kill()
