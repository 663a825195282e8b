"""TLS 1.3 for lanes: a certificate that lives as long as the process, and a client that pins it.

Nobody vouches for the certificate: its SHA-256 comes over libp2p, from the peer that Noise has proved. The client says
nothing at all, not even its ticket, before it has compared. The server knows the client by its ticket.
"""

from __future__ import annotations

import hashlib
import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

# Clocks of small machines are often wrong; pinning does not look at dates, and nor shall anybody else.
_VALID = timedelta(days=36500)


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """What a node shows on its lanes.

    Attributes:
        context: for the server's side of handshakes.
        fingerprint: SHA-256 of the certificate, in DER: 32 bytes.
    """

    context: ssl.SSLContext
    fingerprint: bytes


def new_identity() -> ServerIdentity:
    """Make a key and a certificate for it. They are on no disk when this returns, and gone with the process."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "peatnet lane")])
    start = datetime(2000, 1, 1, tzinfo=UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + _VALID)
        .sign(key, hashes.SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # sessions are not resumed
    _load(
        context,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM),
    )
    der = certificate.public_bytes(serialization.Encoding.DER)
    return ServerIdentity(context, hashlib.sha256(der).digest())


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    """Give the context its key: by way of a file in memory, since the ssl module takes a path only."""
    fd = os.memfd_create("peatnet-lane", os.MFD_CLOEXEC)
    try:
        os.write(fd, pem)
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


@cache
def client_context() -> ssl.SSLContext:
    """The context for the client's side: TLS 1.3 only, and no check but the pin, which is the caller's.

    One for the whole process: making it reads OpenSSL's configuration, and it holds nothing of any one lane.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context
