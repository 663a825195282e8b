"""A member of a fleet of libtorrent clients: ``libtorrent_member.py TORRENT DIR ADDRESS``.

It listens on this address and prints a line when it is ready. A line of addresses on stdin then makes it connect to
them all. Without the whole file it fetches, and while it does it prints what it has now and then, and at last, when
all is there, verified and synced, that it is done. It seeds for as long as it runs; each further line on stdin makes
it print how much it has sent.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import libtorrent as lt
from libtorrent_ends import ENCRYPTION, SETTINGS, Client

PORT = 6881
TELL_EVERY = 0.2
FLUSH_TIMEOUT = 60.0


def main(torrent: Path, directory: Path, address: str) -> None:
    """Take part until stdin ends."""
    settings = SETTINGS | ENCRYPTION["plain"] | {"listen_interfaces": f"{address}:{PORT}"}
    client = Client(torrent, directory, settings)
    say({"ready": client.handle.status().is_seeding})
    for other in sys.stdin.readline().split():
        client.handle.connect_peer((other, PORT))
    if not client.handle.status().is_seeding:
        fetch(client, directory)
    for _ in sys.stdin:
        say({"sent": client.handle.status().total_payload_upload})


def fetch(client: Client, directory: Path) -> None:
    """Until all is on disk."""
    by_address: dict[str, int] = {}
    while True:
        status = client.handle.status(lt.status_flags_t.query_pieces)
        for peer in client.handle.get_peer_info():
            # A connection that has ended is not listed any more; what it brought still counts.
            by_address[peer.ip[0]] = max(by_address.get(peer.ip[0], 0), peer.total_download)
        if status.is_finished:
            break
        bits = sum(1 << index for index, there in enumerate(status.pieces) if there)
        say({"have": f"{bits:x}", "pieces": len(status.pieces), "by": by_address})
        time.sleep(TELL_EVERY)
    client.handle.flush_cache()
    client.wait_for(lt.cache_flushed_alert, FLUSH_TIMEOUT)
    fd = os.open(directory / client.handle.torrent_file().name(), os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    twice = status.total_redundant_bytes
    say({"done": True, "by": by_address, "twice": twice, "failed": status.total_failed_bytes})


def say(message: dict[str, Any]) -> None:
    """One line of JSON."""
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
