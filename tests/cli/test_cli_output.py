"""The small things that every table and message is made of."""

from __future__ import annotations

import sys

import pytest
from rich.text import Text

from peatnet.cli.errors import find_error
from peatnet.cli.output import (
    human_size,
    human_time,
    plain,
    print_table,
    safe,
    short_peer,
    short_source,
)
from peatnet.cli.progress import describe_sources
from peatnet.errors import NoSource, NotFound

PEER = "12D3KooWGC6TvWhfajpgX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5"


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (90_868_376, "86.7 MiB"),
        (1 << 40, "1.0 TiB"),
        (1 << 52, "4096.0 TiB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert human_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (59.4, "59 s"),
        (60, "1:00"),
        (200, "3:20"),
        (3723, "1:02:03"),
    ],
)
def test_times(seconds: float, text: str) -> None:
    assert human_time(seconds) == text


def test_foreign_text_cannot_color_or_steer_the_terminal() -> None:
    text = "[red]x[/red]\x1b[31m\n\u202e"
    assert Text.from_markup(plain(text)).plain == "[red]x[/red]�[31m��"
    assert safe(text) == "[red]x[/red]�[31m\n�"


def test_a_narrow_terminal_cuts_the_columns_that_matter_least(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    heads = ("NAME", "MODELS", "PEER ID", "ADDRESS")
    models = "m1 ready, m2 ready, m3 ready"
    row = ("[bold]ben-of-the-long-name[/]", models, "…mQ5xYz", "192.168.1.20:7411")
    print_table(heads, [row], shrinking=("MODELS", "ADDRESS"))
    head, line = (Text.from_ansi(each).plain for each in capsys.readouterr().out.splitlines())
    assert head.split() == ["NAME", "MODELS", "PEER", "ID", "ADDRESS"]
    name, cut, peer, address = line.split("   ")
    assert (name, peer) == ("ben-of-the-long-name", "…mQ5xYz")
    for shown, whole in ((cut, models), (address, row[3])):
        assert shown.endswith("…")
        assert whole.startswith(shown[:-1])
    assert len(line) <= 60


def test_a_long_peer_id_is_told_by_its_end() -> None:
    assert short_peer(PEER) == "…" + PEER[-12:]
    assert short_peer("short") == "short"
    assert short_source(f"peer:{PEER}") == short_peer(PEER)
    assert short_source("http:example.org") == "http:example.org"


def test_sources_are_told_by_their_share_the_rest_is_summed_up() -> None:
    assert describe_sources({}) == ""
    assert describe_sources({"http:a": 0}) == ""
    assert describe_sources({"http:a": 1, "http:b": 3}) == "http:b 75%, http:a 25%"
    many = {f"http:{i}": 10 for i in range(10)}
    assert describe_sources(many).endswith("http:3 10%, 6 more 60%")


def test_the_error_to_talk_about_is_ours_however_deep_it_lies() -> None:
    ours = NotFound("gone")
    deep = ExceptionGroup(
        "a", [ValueError("x"), ExceptionGroup("b", [OSError("y"), ours, NoSource("z")])]
    )
    assert find_error(deep) is ours
    assert find_error(ours) is ours
    other = ValueError("x")
    assert find_error(ExceptionGroup("a", [other, OSError("y")])) is other
