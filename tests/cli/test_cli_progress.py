"""The bar of ``get``: what is received and what is verified are not the same, and it says so."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from peatnet.cli.progress import fetch_bar
from peatnet.views import Progress

MIB = 1024 * 1024


class Terminal(io.StringIO):
    """Something that passes for a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("more", "amount"),
    [
        ({"verified_bytes": 0, "received_bytes": 3 * MIB}, "3.0 MiB of 8.0 MiB, unverified"),
        ({"verified_bytes": 3 * MIB, "received_bytes": 3 * MIB}, "3.0 MiB of 8.0 MiB"),
        ({"verified_bytes": 3 * MIB}, "3.0 MiB of 8.0 MiB"),
    ],
)
def test_what_is_not_verified_is_called_so(
    monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], amount: str
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setenv("TERM", "xterm")
    with fetch_bar("m") as update:
        assert update is not None
        update({"size_bytes": 8 * MIB, "rate": 0.0, "eta_s": None, "bytes_by_source": {}} | more)
    shown = terminal.getvalue()
    assert amount in shown
    assert ("unverified" in shown) == ("unverified" in amount)


def test_a_copy_is_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setenv("TERM", "xterm")
    with fetch_bar("m") as update:
        assert update is not None
        whole = Progress(
            8 * MIB, 8 * MIB, 0.0, None, {}, received_bytes=8 * MIB, copied_bytes=3 * MIB
        )
        update(whole.to_json())
    assert "3.0 MiB of 8.0 MiB copying" in terminal.getvalue()


def test_without_a_terminal_there_is_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with fetch_bar("m") as update:
        assert update is None
