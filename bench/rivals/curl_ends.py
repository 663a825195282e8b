"""Both ends of a transfer in plain text, from outside peatnet's field: nginx, curl, and BLAKE3 of the file that came.

``curl_ends.py source NGINX FILE SCRATCH [ADDRESS]`` becomes nginx, in the foreground and as one process, with sendfile on and
the rest stock, at this address or that of loopback, and prints its port and the file's name first.
``curl_ends.py sink CURL PATH HASH [ADDRESS]`` prints "ready", waits for a line with those, runs curl, hashes what came on all
cores, compares, and reports.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from blake3 import blake3
from ends import finish, wait_for_go

LOOPBACK = "127.0.0.1"
CONFIG = """\
daemon off;
master_process off;
pid {scratch}/nginx.pid;
error_log stderr warn;
events {{}}
http {{
    access_log off;
    sendfile on;
    client_body_temp_path {scratch}/nginx-body;
    proxy_temp_path {scratch}/nginx-proxy;
    fastcgi_temp_path {scratch}/nginx-fastcgi;
    uwsgi_temp_path {scratch}/nginx-uwsgi;
    scgi_temp_path {scratch}/nginx-scgi;
    server {{
        listen {address}:{port};
        root {root};
    }}
}}
"""


def source(nginx: str, file: Path, scratch: Path, address: str = LOOPBACK) -> None:
    """Serve the file, until ended. nginx listens a moment after the line with its port."""
    with socket.create_server((address, 0)) as free:
        port = free.getsockname()[1]
    config = scratch / "nginx.conf"
    config.write_text(CONFIG.format(scratch=scratch, root=file.parent, address=address, port=port))
    print(f"{port}/{file.name}", flush=True)
    os.execv(nginx, [nginx, "-p", str(scratch), "-c", str(config)])


def sink(curl: str, path: Path, expected: str, address: str = LOOPBACK) -> None:
    """Fetch."""
    began, where = wait_for_go()
    subprocess.run(
        [curl, "--silent", "--fail", "--output", path, f"http://{address}:{where.strip()}"],
        check=True,
    )
    fetched = time.perf_counter()
    hasher = blake3(max_threads=blake3.AUTO)
    hasher.update_mmap(path)
    if hasher.hexdigest() != expected:
        raise RuntimeError("curl got another file")
    hashed = time.perf_counter()
    finish(began, path, curl_s=fetched - began, hash_s=hashed - fetched)


if __name__ == "__main__":
    if sys.argv[1] == "source":
        source(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), *sys.argv[5:])
    else:
        sink(sys.argv[2], Path(sys.argv[3]), sys.argv[4], *sys.argv[5:])
