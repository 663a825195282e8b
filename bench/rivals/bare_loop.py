"""The floor: blocking TLS 1.3 sockets in threads, BLAKE3 of each MiB, and pwrite, with no engine around them.

``bare_loop.py source FILE tls`` prints its port and the SHA-256 of its certificate. ``bare_loop.py sink SIZE HASHES PATH``
prints "ready", waits for a line "CONNECTIONS PORT CERTIFICATE", fetches every CONNECTIONS-th MiB on each connection, checks
it against HASHES, a file with the BLAKE3 of each, writes it in its place, and reports. With ``plain`` instead of ``tls``
nothing is encrypted, and the certificate is "-".
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import socket
import ssl
import struct
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from blake3 import blake3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from ends import finish, wait_for_go

CHUNK = 1024 * 1024
REQUEST = struct.Struct("<II")  # the first chunk, and how many further on the next one is
PLAIN = "-"


def certificate() -> tuple[ssl.SSLContext, str]:
    """A server's context with a new certificate, and the SHA-256 of that."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with tempfile.NamedTemporaryFile() as file:
        file.write(made.public_bytes(serialization.Encoding.PEM))
        file.write(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        file.flush()
        context.load_cert_chain(file.name)
    return context, made.fingerprint(hashes.SHA256()).hex()


def source(file: Path, *, encrypted: bool) -> None:
    """Send what is asked for, until ended."""
    context, fingerprint = certificate() if encrypted else (None, PLAIN)
    fd = os.open(file, os.O_RDONLY)
    size = os.fstat(fd).st_size

    def serve(plain: socket.socket) -> None:
        buffer = memoryview(bytearray(CHUNK))
        with context.wrap_socket(plain, server_side=True) if context else plain as connection:
            first, step = REQUEST.unpack(connection.recv(REQUEST.size))
            for offset in range(first * CHUNK, size, step * CHUNK):
                count = os.preadv(fd, [buffer], offset)
                connection.sendall(buffer[:count])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(f"{listener.getsockname()[1]} {fingerprint}", flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=[connection], daemon=True).start()


def sink(size: int, table: Path, path: Path) -> None:
    """Fetch."""
    expected = table.read_bytes()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # pinned instead

    began, said = wait_for_go()
    connections, port, fingerprint = said.split()
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    os.posix_fallocate(fd, 0, size)

    def connect() -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", int(port)))
        if fingerprint == PLAIN:
            return plain
        connection = context.wrap_socket(plain)
        shown = connection.getpeercert(binary_form=True) or b""
        if hashlib.sha256(shown).hexdigest() != fingerprint:
            raise RuntimeError("another certificate")
        return connection

    def fetch(first: int) -> None:
        buffer = memoryview(bytearray(CHUNK))
        with connect() as connection:
            connection.sendall(REQUEST.pack(first, int(connections)))
            for offset in range(first * CHUNK, size, int(connections) * CHUNK):
                wanted = min(CHUNK, size - offset)
                filled = 0
                while filled < wanted:
                    count = connection.recv_into(buffer[filled:wanted])
                    if not count:
                        raise RuntimeError("the source has ended the connection")
                    filled += count
                place = offset // CHUNK * 32
                if blake3(buffer[:wanted]).digest() != expected[place : place + 32]:
                    raise RuntimeError(f"wrong bytes at {offset}")
                os.pwrite(fd, buffer[:wanted], offset)

    with ThreadPoolExecutor(int(connections)) as pool:
        list(pool.map(fetch, range(int(connections))))
    os.close(fd)
    finish(began, path)


if __name__ == "__main__":
    if sys.argv[1] == "source":
        source(Path(sys.argv[2]), encrypted=sys.argv[3] == "tls")
    else:
        sink(int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
