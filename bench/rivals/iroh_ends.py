"""Both ends of a transfer by iroh 0.35, from PyPI: the last release whose Python package carries blobs.

``iroh_ends.py source STORE FILE`` takes the file into a store on disk and prints one JSON line with its hash, the node's
id and its addresses. ``iroh_ends.py sink STORE PATH`` prints "ready", waits for a line that is that JSON, fetches the blob
into a store of its own, moves it from there to PATH (the cheapest of its exports), and reports.

Discovery is off. The package has no switch for relays, so none is named: the source's loopback address is all that the
sink is given, and QUIC connects there directly.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import iroh
from ends import finish, wait_for_go


class Silent(iroh.AddCallback, iroh.DownloadCallback):  # type: ignore[misc]  # ships no types
    """Takes progress and notes only what ends it.

    Attributes:
        added: the hash of a file that was added.
        error: why a download was given up.
    """

    def __init__(self) -> None:
        self.added: iroh.Hash | None = None
        self.error: str | None = None

    async def progress(self, progress: iroh.AddProgress | iroh.DownloadProgress) -> None:
        """One word of progress."""
        kind = progress.type()
        if kind == iroh.AddProgressType.ALL_DONE:
            self.added = progress.as_all_done().hash
        elif kind in {iroh.DownloadProgressType.ABORT, iroh.AddProgressType.ABORT}:
            self.error = progress.as_abort().error


async def start(store: str) -> iroh.Iroh:
    """A node with its store on disk, and no discovery."""
    iroh.iroh_ffi.uniffi_set_event_loop(asyncio.get_running_loop())
    options = iroh.NodeOptions(
        ipv4_addr="127.0.0.1:0", node_discovery=iroh.NodeDiscoveryConfig.NONE
    )
    return await iroh.Iroh.persistent_with_options(store, options)


async def source(store: str, file: str) -> None:
    """Serve the file, until ended."""
    node = await start(store)
    callback = Silent()
    in_place = True
    await node.blobs().add_from_path(
        file, in_place, iroh.SetTagOption.auto(), iroh.WrapOption.no_wrap(), callback
    )
    if callback.added is None:
        raise RuntimeError(callback.error or "the file was not added")
    address = await node.net().node_addr()
    told = {
        "hash": str(callback.added),
        "node": await node.net().node_id(),
        "addresses": address.direct_addresses(),
    }
    print(json.dumps(told), flush=True)
    await asyncio.Event().wait()


async def sink(store: str, path: str) -> None:
    """Fetch."""
    node = await start(store)
    began, said = await asyncio.to_thread(wait_for_go)
    told = json.loads(said)
    address = iroh.NodeAddr(iroh.PublicKey.from_string(told["node"]), None, told["addresses"])
    blob = iroh.Hash.from_string(told["hash"])
    options = iroh.BlobDownloadOptions(iroh.BlobFormat.RAW, [address], iroh.SetTagOption.auto())
    callback = Silent()
    await node.blobs().download(blob, options, callback)
    if callback.error is not None:
        raise RuntimeError(callback.error)
    await node.blobs().export(
        blob, path, iroh.BlobExportFormat.BLOB, iroh.BlobExportMode.TRY_REFERENCE
    )
    await asyncio.to_thread(finish, began, Path(path))


if __name__ == "__main__":
    asyncio.run({"source": source, "sink": sink}[sys.argv[1]](*sys.argv[2:]))
