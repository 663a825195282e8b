"""Multiaddrs in and out: what an operator types, what a peer announces, what we announce ourselves.

Only TCP over IPv4, IPv6 or DNS names is dialled or listened on; everything else is refused by name.
"""

from __future__ import annotations

import errno
import re
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING

import psutil
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from peatnet.errors import ListenError, RemoteProtocolError, UsageError
from peatnet.records import PeerId

if TYPE_CHECKING:
    from collections.abc import Iterable

# Longer than any address that TCP over IP or a DNS name (255 bytes) needs.
MAX_ADDRESS_BYTES = 512
# What one peer may announce.
MAX_ADDRESSES = 16

_HOST_PROTOCOLS = {"ip4", "ip6", "dns", "dns4", "dns6"}
# The codes of the multiaddr registry; all below 128, so one byte each, as are the lengths of names we take.
_BINARY_HOSTS = {b"\x04": "ip4", b"\x29": "ip6", b"\x35": "dns", b"\x36": "dns4", b"\x37": "dns6"}
_LONGEST_NAME = 127
# https://www.rfc-editor.org/rfc/rfc1123#section-2.1; what is none makes resolvers raise what nobody expects.
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DNS_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")


def _shape(address: Multiaddr) -> list[str]:
    return [protocol.name for protocol in address.protocols()]


def _why(error: Exception) -> str:
    """What is wrong, without the address, which multiaddr's own texts repeat twice."""
    return str(getattr(error, "message", error))


def parse_dial_address(text: str) -> tuple[str, str]:
    """Split ``/ip4/…/tcp/…/p2p/PEER_ID`` into the address to dial and the peer id to expect there.

    Raises:
        UsageError: it is not such an address.
    """
    hint = "use the form /ip4/192.0.2.7/tcp/7411/p2p/12D3Koo..., as `peatnet up` prints it"
    try:
        address = Multiaddr(text)
        shape = _shape(address)
        peer_text = address.value_for_protocol("p2p") if shape[-1:] == ["p2p"] else None
    except (MultiaddrError, ValueError) as exc:
        raise UsageError(f"{text!r} is not a multiaddr: {_why(exc)}", hint=hint) from exc
    if peer_text is None:
        raise UsageError(f"{text!r} does not end in /p2p/PEER_ID", hint=hint)
    if len(shape) != 3 or shape[0] not in _HOST_PROTOCOLS or shape[1] != "tcp":
        raise UsageError(f"{text!r} is not a TCP address", hint=hint)
    try:
        peer_id = PeerId.parse(peer_text)
    except RemoteProtocolError as exc:
        raise UsageError(f"{text!r}: {exc.message}", hint=hint) from exc
    return str(address.decapsulate(Multiaddr(f"/p2p/{peer_text}"))), peer_id


def parse_listen_address(text: str) -> tuple[str, int]:
    """The IP address and port of a listening address ``/ip4|ip6/…/tcp/…``; port 0 lets the system choose.

    Raises:
        UsageError: it is not such an address.
    """
    hint = "use the form /ip4/0.0.0.0/tcp/7411"
    try:
        address = Multiaddr(text)
        shape = _shape(address)
        if len(shape) != 2 or shape[0] not in {"ip4", "ip6"} or shape[1] != "tcp":
            raise UsageError(f"{text!r} is not a TCP listening address", hint=hint)
        return str(address.value_for_protocol(shape[0])), int(
            str(address.value_for_protocol("tcp"))
        )
    except (MultiaddrError, ValueError) as exc:
        raise UsageError(f"{text!r} is not a multiaddr: {_why(exc)}", hint=hint) from exc


def check_can_listen(text: str) -> None:
    """Bind a listening address once, since py-libp2p does not say why it could not.

    Raises:
        ListenError: it cannot be bound.
        UsageError: it is not of the form above.
    """
    host, port = parse_listen_address(text)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            hints = {
                errno.EADDRINUSE: "another program listens there, or a node has its bulk port there; choose another port with --listen",
                errno.EADDRNOTAVAIL: "this machine has no such address; see `ip address`",
                errno.EACCES: "ports below 1024 need privileges; choose a higher one",
            }
            raise ListenError(
                f"cannot listen on {text}: {exc.strerror}", hint=hints.get(exc.errno or 0)
            ) from exc


def announced_by_peer(raw: Iterable[bytes]) -> list[str]:
    """The dialable ones of the binary addresses that a peer announced; the others are left out."""
    found = (_read_tcp_address(packed) for packed in raw)
    return [text for text in found if text is not None][:MAX_ADDRESSES]


def _read_tcp_address(packed: bytes) -> str | None:
    """Read ``host/tcp`` in binary; None where it is anything else.

    The multiaddr package is not meant for hostile bytes: it raises TypeError, EOFError and OverflowError on
    some. What we dial has only these shapes (see https://github.com/multiformats/multiaddr): the code of the
    host's protocol, the host (for names, after its length), the code of TCP, two bytes of port.
    """
    kind, host, port = packed[:1], packed[1:-3], packed[-2:]
    if len(packed) < 4 or packed[-3:-2] != b"\x06" or port == b"\0\0":
        return None
    name = _BINARY_HOSTS.get(kind)
    if name in {"ip4", "ip6"}:
        if len(host) != (4 if name == "ip4" else 16):
            return None
        address = ip_address(host)
        if address.is_unspecified or address.is_multicast:
            return None
        text = str(address)
    else:
        text = host[1:].decode("ascii", "replace")
        if len(text) > _LONGEST_NAME or host[:1] != bytes([len(text)]):
            return None
        if not _DNS_NAME.fullmatch(text):
            return None
    return f"/{name}/{text}/tcp/{int.from_bytes(port, 'big')}" if name else None


def to_announce(listening: Iterable[str]) -> list[str]:
    """What to tell peers: each listening address, with "any" replaced by this machine's own addresses.

    Loopback addresses are announced only where nothing else is listened on, since they mean another
    machine to everybody else.
    """
    addresses: list[str] = []
    for text in listening:
        host, port = parse_listen_address(text)
        ip = ip_address(host)
        version = "ip6" if ip.version == 6 else "ip4"  # the IP version
        hosts = _own_addresses(ip.version) if ip.is_unspecified else [host]
        addresses.extend(f"/{version}/{own}/tcp/{port}" for own in hosts)
    return addresses[:MAX_ADDRESSES]


def _own_addresses(version: int) -> list[str]:
    family = socket.AF_INET6 if version == 6 else socket.AF_INET  # the IP version
    found = [
        entry.address
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        # A scoped (link-local) IPv6 address means nothing without our interface's name.
        if entry.family == family and "%" not in entry.address
    ]
    outward = [address for address in found if not ip_address(address).is_loopback]
    return outward or found
