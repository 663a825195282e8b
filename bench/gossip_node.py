"""A node of bench/gossip.py: ``gossip_node.py DATA_DIR [PEER...]``. One line out for each thing that happens, one in to publish.

Prints one JSON object with its ``peer_id`` and ``addrs`` when it is ready. A line with a path on stdin makes it publish
that file, under its name. Whenever a model is new to it, its own too, it prints the name and the time, on the clock that
all processes of a machine share; of its own, also when it was told to publish it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import trio

import peatnet
from peatnet.cli.draft import draft_manifest
from peatnet.models import ModelManifest
from peatnet.views import ModelChanged


async def main(data_dir: Path, peers: list[str]) -> None:
    """Run until stdin ends."""
    config = peatnet.load_config(
        data_dir, listen=["/ip4/127.0.0.1/tcp/0"], mdns=False, fetch="none", peers=peers
    )
    began: dict[str, float] = {}
    async with (
        peatnet.open_node(config) as node,
        node.subscribe() as changes,
        trio.open_nursery() as nursery,
    ):
        print(json.dumps({"peer_id": node.peer_id, "addrs": node.addrs}), flush=True)

        async def publish() -> None:
            while line := await trio.to_thread.run_sync(sys.stdin.readline):
                if line == "connected?\n":
                    views = await node.peers()
                    print(sum(view.connected for view in views), flush=True)
                    continue
                path = Path(line.strip())
                drafted, _ = draft_manifest(path.name, None, {"model_id": path.stem})
                manifest = ModelManifest.from_json(json.dumps(drafted))
                began[path.stem] = time.monotonic()
                await node.publish(path, manifest)
            nursery.cancel_scope.cancel()

        nursery.start_soon(publish)
        seen: set[str] = set()
        async for change in changes:
            if isinstance(change, ModelChanged) and change.model_id not in seen:
                seen.add(change.model_id)
                told = {"model": change.model_id, "at": time.monotonic()}
                if change.model_id in began:
                    told["began"] = began[change.model_id]
                print(json.dumps(told), flush=True)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), sys.argv[2:])
