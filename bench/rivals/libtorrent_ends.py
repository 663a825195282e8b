"""Both ends of a transfer by libtorrent, from PyPI: one torrent, peers that are told of each other directly.

``libtorrent_ends.py make VERSION PATH TORRENT [PIECE]`` makes a torrent (v1, v2) of a file or directory.
``… source TORRENT DIR ENCRYPTION`` seeds what is in DIR and prints its port; for each line that comes in, it prints how
many bytes of the torrent it has sent.
``… sink TORRENT DIR ENCRYPTION`` prints its port, waits for a line with the ports of the peers to connect to, connects, prints
"ready", waits for a line, fetches into DIR, and reports; after that it seeds, as any client does.
ENCRYPTION is ``plain`` or ``rc4``. A word NAME=VALUE among the arguments changes a setting.

Peers are connected before the clock starts, as peatnet's are: libtorrent connects at its next tick, up to half a second
later. uTP, DHT, LSD, UPnP and NAT-PMP are off, all peers are unchoked, and connections from one address are told
apart, since here all come from one. Send buffers and the number of requests under way are those of libtorrent's own
preset for speed (high_performance_seed); that made it faster. Everything else is stock: other piece sizes, disk
back ends (mmap, posix), more hashing threads, larger queues to the disk and larger socket buffers did not.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import libtorrent as lt
from ends import finish, wait_for_go

CHECK_TIMEOUT = 120.0
DOWNLOAD_TIMEOUT = 3600.0
DEFAULT_PRIORITY = 4
LOOK_EVERY = 0.02
SETTINGS: dict[str, Any] = {
    "listen_interfaces": "127.0.0.1:0",
    "enable_incoming_utp": False,
    "enable_outgoing_utp": False,
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "unchoke_slots_limit": -1,
    "allow_multiple_connections_per_ip": True,
    # A sink that wants nothing yet stays connected.
    "close_redundant_connections": False,
    "send_buffer_low_watermark": 1024 * 1024,
    "send_buffer_watermark": 3 * 1024 * 1024,
    "send_buffer_watermark_factor": 150,
    "send_not_sent_low_watermark": 512 * 1024,
    "max_out_request_queue": 1500,
    "alert_mask": lt.alert_category.status | lt.alert_category.error | lt.alert_category.storage,
}
ENCRYPTION: dict[str, dict[str, Any]] = {
    "plain": {"in_enc_policy": lt.enc_policy.disabled, "out_enc_policy": lt.enc_policy.disabled},
    "rc4": {
        "in_enc_policy": lt.enc_policy.forced,
        "out_enc_policy": lt.enc_policy.forced,
        "allowed_enc_level": lt.enc_level.rc4,
        "prefer_rc4": True,
    },
}


def make(version: str, path: Path, torrent: Path, piece_size: int = 0) -> None:
    """Write a torrent; a piece size of 0 leaves it to libtorrent."""
    flags = lt.create_torrent.v1_only if version == "v1" else lt.create_torrent.v2_only
    made = lt.create_torrent(lt.list_files(str(path)), piece_size, flags)
    lt.set_piece_hashes(made, str(path.parent))
    torrent.write_bytes(lt.bencode(made.generate()))


class Client:
    """A session with one torrent."""

    def __init__(
        self, torrent: Path, directory: Path, settings: dict[str, Any], *, wanted: bool = True
    ) -> None:
        self.session = lt.session(lt.session_params(settings))
        params = lt.load_torrent_file(str(torrent))
        params.save_path = str(directory)
        # Neither paused nor queued by the session.
        params.flags &= ~(lt.torrent_flags.paused | lt.torrent_flags.auto_managed)
        if not wanted:
            params.file_priorities = [0] * params.ti.files().num_files()
        self.handle = self.session.add_torrent(params)
        self.wait_for(lt.torrent_checked_alert, CHECK_TIMEOUT)

    def wait_for(self, kind: type, timeout: float) -> None:
        """Until an alert of this kind comes.

        Raises:
            RuntimeError: something went wrong, or nothing came in time.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            self.session.wait_for_alert(1000)
            for alert in self.session.pop_alerts():
                if isinstance(alert, lt.torrent_error_alert | lt.file_error_alert):
                    raise RuntimeError(alert.message())  # noqa: TRY004  # no wrong type, an error that came as a message
                if isinstance(alert, kind):
                    return
        raise RuntimeError(f"no {kind.__name__} in {timeout:.0f} s")


def source(torrent: Path, directory: Path, settings: dict[str, Any]) -> None:
    """Seed, and print the port; then the bytes of the torrent that were sent, each time that a line comes in."""
    client = Client(
        torrent, directory, settings
    )  # has checked the files, so that no piece is hashed later
    if not client.handle.status().is_seeding:
        raise RuntimeError(f"{directory} does not hold what {torrent} says")
    print(client.session.listen_port(), flush=True)
    while sys.stdin.readline():
        print(client.handle.status().total_payload_upload, flush=True)


def sink(torrent: Path, directory: Path, settings: dict[str, Any]) -> None:
    """Fetch."""
    client = Client(torrent, directory, settings, wanted=False)
    print(client.session.listen_port(), flush=True)
    ports = sys.stdin.readline().split()
    for port in ports:
        client.handle.connect_peer(("127.0.0.1", int(port)))
    while client.handle.status().num_peers < len(ports):
        time.sleep(LOOK_EVERY)
    began, _ = wait_for_go()
    client.handle.prioritize_files([DEFAULT_PRIORITY] * client.handle.torrent_file().num_files())
    client.wait_for(lt.torrent_finished_alert, DOWNLOAD_TIMEOUT)
    client.handle.flush_cache()
    client.wait_for(lt.cache_flushed_alert, DOWNLOAD_TIMEOUT)
    finish(began, directory / client.handle.torrent_file().name())


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if "=" not in word]
    changes = dict(word.split("=") for word in sys.argv[1:] if "=" in word)
    if words[0] == "make":
        make(words[1], Path(words[2]), Path(words[3]), *map(int, words[4:]))
    else:
        run = {"source": source, "sink": sink}[words[0]]
        found = SETTINGS | ENCRYPTION[words[3]] | {k: int(v) for k, v in changes.items()}
        run(Path(words[1]), Path(words[2]), found)
