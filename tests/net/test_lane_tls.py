"""Both ends of a lane's TLS: whole, in time, and never waiting for what is here already."""

from __future__ import annotations

import hashlib
import socket
import struct
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from peatnet.errors import PeerLost
from peatnet.net.lanes import receiving_tls
from peatnet.net.lanes.receiving_tls import LITTLE, MUCH, WAKE_FOR, ReceivingTls
from peatnet.net.lanes.sending_tls import SEND_PIECE, SendingTls
from peatnet.net.lanes.sockets import LaneSocket
from peatnet.net.lanes.tls import client_context, new_identity

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 20.0
IDENTITY = new_identity()


@dataclass
class Ends:
    """Both ends of a connection, and a thread for one of them."""

    server: SendingTls
    client: ReceivingTls
    server_sock: socket.socket
    client_sock: socket.socket
    pool: ThreadPoolExecutor

    def sends(self, data: bytes) -> Future[None]:
        return self.pool.submit(self.server.send, data, soon())


def soon() -> float:
    return time.monotonic() + PATIENCE


@contextmanager
def plain_ends() -> Iterator[Ends]:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        client_sock = socket.create_connection(listener.getsockname())
        server_sock, _ = listener.accept()
        server = SendingTls(server_sock, IDENTITY.context)
        with client_sock, server.sock:
            yield Ends(
                server,
                ReceivingTls(client_sock, client_context()),
                server.sock,
                client_sock,
                pool,
            )


@contextmanager
def ends() -> Iterator[Ends]:
    with plain_ends() as made:
        shaking = made.pool.submit(made.server.shake_hands, PATIENCE)
        made.client.shake_hands(PATIENCE)
        shaking.result()
        yield made


def received(end: ReceivingTls | SendingTls, count: int, deadline: float | None = None) -> bytes:
    buffer = bytearray(count)
    end.fill(memoryview(buffer), soon() if deadline is None else deadline)
    return bytes(buffer)


def sent_raw(sock: socket.socket, data: bytes) -> None:
    """Send these bytes as they are, whatever TLS has in mind."""
    assert socket.socket.send(sock, data) == len(data)


LENGTHS = [
    1,
    LITTLE,
    LITTLE + 1,
    SEND_PIECE,
    SEND_PIECE + 1,
    WAKE_FOR + 1,
    MUCH - 1,
    1024 * 1024 + 7,
]


@pytest.mark.parametrize("length", LENGTHS)
def test_what_is_sent_arrives_in_pieces_of_any_length(length: int) -> None:
    data = bytes(i * 7 % 251 for i in range(length)) + b"and more"
    with ends() as both:
        sending = both.sends(data)
        assert received(both.client, length) == data[:length]
        assert received(both.client, 8) == b"and more"
        sending.result()
        receiving = both.pool.submit(received, both.server, len(data))
        both.client.send(data, soon())
        assert receiving.result(PATIENCE) == data


def test_the_pin_is_of_the_certificate_that_was_shown() -> None:
    with ends() as both:
        shown = both.client.peer_certificate()
        assert hashlib.sha256(shown).digest() == IDENTITY.fingerprint
        assert both.server.peer_certificate() == b""


def test_what_is_here_already_needs_no_socket() -> None:
    with ends() as both:
        assert not both.client.pending()
        both.sends(b"one record").result()
        both.server.send(b"another", soon())
        assert not both.client.pending()  # nobody has looked at the socket
        assert received(both.client, 3) == b"one"
        assert both.client.pending()
        assert received(both.client, 7) == b" record"
        assert received(both.client, 7) == b"another"
        assert not both.client.pending()


def test_the_socket_is_readable_with_the_first_byte_again_after_a_long_payload() -> None:
    with ends() as both:
        sending = both.sends(bytes(WAKE_FOR * 4))
        received(both.client, WAKE_FOR * 4)
        sending.result()
        low = both.client_sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)
        assert low == 1


@pytest.fixture
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving_tls, "LOOK_AT_CLOCK", 0.05)


@pytest.mark.usefixtures("_looks_often")
def test_half_a_record_is_not_pending() -> None:
    with ends() as both:
        sent_raw(both.server_sock, b"\x17\x03\x03\x00\x80" + bytes(20))  # of 128 bytes
        with pytest.raises(PeerLost, match="too slowly"):
            received(both.client, 1, time.monotonic() + 0.1)
        assert not both.client.pending()


@pytest.mark.usefixtures("_looks_often")
def test_who_sends_nothing_is_given_up() -> None:
    with ends() as both, pytest.raises(PeerLost, match="too slowly"):
        received(both.client, 1, time.monotonic() + 0.1)


def test_who_sends_at_full_speed_but_no_end_is_given_up() -> None:
    with ends() as both:
        both.sends(bytes(8 * MUCH))
        with pytest.raises(PeerLost, match="too slowly"):
            received(both.client, 8 * MUCH, time.monotonic() - 1.0)


def test_who_takes_nothing_is_given_up() -> None:
    with ends() as both, pytest.raises(PeerLost, match="takes bytes too slowly"):
        both.server.send(bytes(64 * 1024 * 1024), time.monotonic() + 0.3)


def test_who_shakes_no_hands_is_given_up() -> None:
    with plain_ends() as both:
        with pytest.raises(PeerLost, match="takes too long"):
            both.server.shake_hands(0.1)
        sent_raw(both.server_sock, b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(PeerLost, match="no TLS"):
            both.client.shake_hands(PATIENCE)


def test_the_end_is_no_data() -> None:
    with ends() as both:
        reading = both.pool.submit(received, both.server, 1)
        both.client_sock.shutdown(socket.SHUT_RDWR)
        with pytest.raises(PeerLost, match="ended"):
            reading.result(PATIENCE)


def test_changed_ciphertext_is_no_data() -> None:
    garbage = b"\x17\x03\x03\x00\x40" + bytes(64)
    with ends() as both:
        sent_raw(both.server_sock, garbage)
        with pytest.raises(PeerLost, match="broke"):
            received(both.client, 1)
        sent_raw(both.client_sock, garbage)
        with pytest.raises(PeerLost, match="broke"):
            received(both.server, 1)


def test_who_sends_requests_in_drips_is_given_up() -> None:
    with ends() as both:
        for byte in b"drip":
            both.client.send(bytes([byte]), soon())
        with pytest.raises(PeerLost, match="sends too slowly"):
            received(both.server, 5, time.monotonic() + 0.1)


def test_who_is_shut_while_it_sends_stops() -> None:
    with ends() as both:
        sending = both.sends(bytes(64 * MUCH))
        assert received(both.client, MUCH) == bytes(MUCH)
        socket.socket.shutdown(both.server_sock, socket.SHUT_RDWR)
        with pytest.raises(PeerLost, match="broke"):
            sending.result(PATIENCE)


def shake_hands(lane: LaneSocket) -> None:
    try:
        lane.shake_hands(PATIENCE)
    finally:
        lane.close()


def test_one_that_is_gone_already_is_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        with server:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()  # with a reset
            with pytest.raises(PeerLost):  # now or then, as the kernel has it
                shake_hands(LaneSocket(server, IDENTITY.context, server=True))
            assert server.fileno() == -1
