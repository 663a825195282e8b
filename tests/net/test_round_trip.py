"""How far the other end of a connection is, by the kernel's word."""

from __future__ import annotations

import socket
import sys

import pytest

from peatnet.net.round_trip import least_round_trip


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="not known on other systems")
def test_the_other_end_of_a_connection_on_this_machine_is_near() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as sock:
            assert 0 < least_round_trip(sock) < 0.05
        assert least_round_trip(sock) == 0  # closed
        with socket.socket() as sock:
            assert least_round_trip(sock) == 0  # never connected


def test_what_is_no_tcp_connection_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = socket.socketpair()
    with one, other:
        assert least_round_trip(one) == 0
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as sock,
        monkeypatch.context() as patch,
    ):
        patch.setattr(sys, "platform", "darwin")
        assert least_round_trip(sock) == 0


class Short:
    """A kernel that tells less."""

    def getsockopt(self, *_: int) -> bytes:
        return bytes(100)


def test_a_kernel_that_tells_less_is_not_misread() -> None:
    assert least_round_trip(Short()) == 0
