"""The demo's course: a publisher, nodes that fetch from it and from each other, one that joins late.

Each node has a thread here that walks it through the demo; the main thread draws and cleans up. Nodes start in
waves, each told the addresses of those before it, so that all find each other without mDNS.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from blake3 import blake3

from peatnet.cli.demo_model import SIZE, write_demo_model
from peatnet.cli.demo_nodes import DemoNode
from peatnet.cli.demo_view import demo_view, print_results
from peatnet.cli.draft import draft_manifest
from peatnet.cli.output import human_size, note, print_json
from peatnet.errors import DiskFull, IntegrityError, NodeUnreachable, PeatnetError
from peatnet.publishing import opened_model

if TYPE_CHECKING:
    from types import FrameType

MODEL_ID = "demo-model"

_DRAW_EVERY_S = 0.1
_KNOWN_WITHIN_S = 60.0
_SPARE_BYTES = 768 * 1024 * 1024  # every node keeps 512 MiB of its disk free
_PEERS_TOLD = 8


@dataclass
class Demo:
    """What the demo's threads share."""

    root: Path
    file: Path
    publisher: DemoNode
    others: list[DemoNode]
    expected_hash: str = ""
    published: threading.Event = field(default_factory=threading.Event)
    in_line: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    fetching: threading.Event = field(default_factory=threading.Event)
    stopping: threading.Event = field(default_factory=threading.Event)
    failure: PeatnetError | None = None

    @property
    def nodes(self) -> list[DemoNode]:
        """All of them, the publisher first."""
        return [self.publisher, *self.others]


def run_demo(*, nodes: int, file: Path | None, as_json: bool, keep_logs: bool) -> None:
    """Run the demo to its end, and leave nothing behind.

    Args:
        nodes: how many fetch.
        file: what to publish; None makes a model file.
        as_json: print the rows as JSON in place of the table.
        keep_logs: leave the temporary directory where it is, and say where.

    Raises:
        PeatnetError: a node failed.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the nodes are stopped and their files gone.
    """
    if file is not None:
        with opened_model(file):
            pass  # it can be published
    before = signal.signal(signal.SIGTERM, _interrupt)
    root = Path(tempfile.mkdtemp(prefix="peatnet-demo-"))
    try:
        size = SIZE if file is None else file.stat().st_size
        _check_room(root, (nodes + 2) * size)
        model = file
        if model is None:
            model = root / "demo-model-f16.safetensors"
            note(f"making a model file of {human_size(SIZE)}")
            write_demo_model(model)
        demo = Demo(
            root=root,
            file=model.absolute(),
            publisher=DemoNode("publisher", root / "publisher"),
            others=[
                DemoNode(f"node-{i}", root / f"node-{i}", late=i == nodes > 1)
                for i in range(1, nodes + 1)
            ],
        )
        _run(demo)
        rows = [_row(demo, node) for node in demo.others]
        if as_json:
            print_json(rows)
        else:
            print_results(rows)
    finally:
        if keep_logs:
            note(f"kept: {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)
        signal.signal(signal.SIGTERM, before)


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _check_room(root: Path, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if free < needed + _SPARE_BYTES:
        raise DiskFull(
            f"{root}: the demo needs {human_size(needed + _SPARE_BYTES)}, {human_size(free)} are free",
            hint="set TMPDIR to a directory with more room",
        )


def _run(demo: Demo) -> None:
    threads = [threading.Thread(target=_guard, args=(demo, _publish, demo.publisher), daemon=True)]
    threads += [
        threading.Thread(target=_guard, args=(demo, _fetch, node), daemon=True)
        for node in demo.others
    ]
    try:
        for thread in threads:
            thread.start()
        with demo_view(demo.nodes) as draw:
            while any(thread.is_alive() for thread in threads) and demo.failure is None:
                draw()
                threads[-1].join(_DRAW_EVERY_S)
                if not threads[-1].is_alive():
                    time.sleep(_DRAW_EVERY_S)  # the others are still at it
            draw()
    finally:
        demo.stopping.set()
        for node in demo.nodes:
            node.ask_to_stop()
        for node in demo.nodes:
            node.wait_stopped()
        for thread in threads:
            thread.join()
    if demo.failure is not None:
        for node in demo.nodes:
            if node.state == "failed" and (tail := node.log_tail()):
                note(f"the end of {node.name}'s log:\n{tail}")
        raise demo.failure


def _guard(demo: Demo, walk: Any, node: DemoNode) -> None:
    try:
        walk(demo, node)
    except PeatnetError as exc:
        if demo.failure is None and not demo.stopping.is_set():
            node.state = "failed"
            exc.message = f"{node.name}: {exc.message}"
            demo.failure = exc


def _publish(demo: Demo, node: DemoNode) -> None:
    node.start([])
    node.state = "publishing"
    manifest, _ = draft_manifest(demo.file.name, None, {"model_id": MODEL_ID})
    params = {"path": str(demo.file), "manifest": manifest}
    published = node.client.call("publish", params)
    demo.expected_hash = published["blob_hash"]
    if _hash_file(demo.file) != demo.expected_hash:
        raise IntegrityError("the published hash is not the BLAKE3 of the file")
    node.state = "serving"
    demo.published.set()


def _fetch(demo: Demo, node: DemoNode) -> None:
    number = demo.others.index(node) + 1
    _wait(demo, demo.nodes[number // 2].ready)
    if node.late:
        _wait(demo, demo.fetching)
    known = [other for other in demo.nodes if other.ready.is_set()]
    node.start([other.addrs[0] for other in known[:_PEERS_TOLD]])
    _wait(demo, demo.published)
    node.state = "listening"
    _wait_for_model(demo, node)
    if not node.late:
        node.state = "in line"
        demo.in_line.release()
        if node is demo.others[0]:
            _gather(demo)
        _wait(demo, demo.fetching)
    node.state = "fetching"

    def progressed(progress: dict[str, Any]) -> None:
        node.progress = progress

    result = node.client.call("get", {"reference": MODEL_ID}, on_progress=progressed)
    node.state = "checking"
    node.verified = _hash_file(Path(result["path"])) == demo.expected_hash
    if not node.verified:
        raise IntegrityError(f"{result['path']} is not the file that was published")
    node.result = result
    node.state = "done"


def _gather(demo: Demo) -> None:
    """Let the nodes that are not late begin together, so that they have something to give each other."""
    for node in demo.others:
        while not node.late and not demo.in_line.acquire(timeout=_DRAW_EVERY_S):
            if demo.stopping.is_set():
                raise NodeUnreachable("the demo was stopped")
    demo.fetching.set()


def _wait_for_model(demo: Demo, node: DemoNode) -> None:
    give_up_at = time.monotonic() + _KNOWN_WITHIN_S
    while not any(row["model_id"] == MODEL_ID for row in node.client.call("models")):
        if time.monotonic() > give_up_at:
            raise NodeUnreachable(f"has not heard of the model within {_KNOWN_WITHIN_S:.0f} s")
        if demo.stopping.wait(_DRAW_EVERY_S):
            raise NodeUnreachable("the demo was stopped")


def _wait(demo: Demo, event: threading.Event) -> None:
    while not event.wait(_DRAW_EVERY_S):
        if demo.stopping.is_set():
            raise NodeUnreachable("the demo was stopped")


def _hash_file(path: Path) -> str:
    return blake3().update_mmap(path).hexdigest()


def _row(demo: Demo, node: DemoNode) -> dict[str, Any]:
    if node.result is None:
        raise AssertionError("every node has a result when no thread has failed")
    names = {f"peer:{other.peer_id}": other.name for other in demo.nodes}
    return {
        "node": node.name,
        "joined_late": node.late,
        "seconds": node.result["seconds"],
        "size_bytes": node.result["size_bytes"],
        "bytes_by_source": {
            names.get(source, source): size
            for source, size in node.result["bytes_by_source"].items()
        },
        "blob_hash": demo.expected_hash,
        "verified": node.verified,
    }
