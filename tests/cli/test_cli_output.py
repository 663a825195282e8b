"""The small things that every table and message is made of."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from rich.text import Text

from peatnet.cli.errors import find_error
from peatnet.cli.models import print_models
from peatnet.cli.output import (
    human_size,
    human_time,
    plain,
    print_table,
    safe,
    short_peer,
    short_source,
)
from peatnet.cli.output_fit import cut, fit
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
    print_table(heads, [row], shrinking=[{"MODELS": 1, "ADDRESS": 1}])
    head, line = (Text.from_ansi(each).plain for each in capsys.readouterr().out.splitlines())
    assert head.split() == ["NAME", "MODELS", "PEER", "ID", "ADDRESS"]
    name, cut, peer, address = line.split("  ")
    assert (name, peer) == ("ben-of-the-long-name", "…mQ5xYz")
    for shown, whole in ((cut, models), (address, row[3])):
        assert shown.endswith("…")
        assert whole.startswith(shown[:-1])
    assert len(line) <= 60


@pytest.mark.parametrize(
    ("room", "widths", "gap"),
    [
        (38, {"A": 20, "B": 8, "C": 4}, 3),
        (37, {"A": 20, "B": 8, "C": 4}, 2),
        (34, {"A": 18, "B": 8, "C": 4}, 2),
        (25, {"A": 10, "B": 7, "C": 4}, 2),
        # What a column that is left out gives back is not handed out again.
        (24, {"A": 10, "B": 7, "C": 0}, 2),
        (19, {"A": 10, "B": 7, "C": 0}, 2),
        (15, {"A": 6, "B": 7, "C": 0}, 2),
        (1, {"A": 1, "B": 1, "C": 0}, 2),
    ],
)
def test_columns_give_way_in_stages_the_widest_first_and_no_more_than_needed(
    room: int, widths: dict[str, int], gap: int
) -> None:
    stages = [{"A": 10, "B": 7}, {"C": 0}]
    found, between = fit({"A": 20, "B": 8, "C": 4}, room, stages)
    assert (found, between) == (widths, gap)


def test_a_cut_cell_keeps_its_style_and_the_end_that_matters() -> None:
    text = Text.from_markup("…83FeqokXumQT [yellow](untrusted)[/]")
    assert cut(text.copy(), 25).plain == text.plain
    assert cut(text.copy(), 8).plain == "…83Feqo…"
    end = cut(text.copy(), 14, keep_end=True)
    assert (end.plain, end.cell_len) == ("…T (untrusted)", 14)
    assert [str(span.style) for span in end.spans] == ["yellow"]
    # Two columns a sign.
    assert cut(Text("模型模型"), 6, keep_end=True).plain == "…模型"


def model(model_id: str, status: str = "available", **others: Any) -> dict[str, Any]:
    return {
        "model_id": model_id,
        "version": "1.0.0",
        "status": status,
        "download_progress": 0.45,
        "size_bytes": 4_700_000_000,
        "blob_hash": "8087e9bf97c265f8" * 4,
        "publisher": PEER,
        "trusted": True,
        "error": None,
    } | others


@pytest.mark.parametrize("columns", [60, 80, 100])
@pytest.mark.parametrize("stranger", [[], [model("x" * 128, version="9" * 64, trusted=False)]])
def test_whatever_a_stranger_publishes_status_and_size_of_all_models_are_shown(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    columns: int,
    stranger: list[dict[str, Any]],
) -> None:
    rows = [
        model("all-minilm-l6-v2", "ready"),
        model("qwen2.5-coder-7b-instruct", "downloading"),
        model("qwen2.5-coder-7b-instruct", version="2.5.1", trusted=False),
        *stranger,
    ]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    print_models(rows)
    lines = [Text.from_ansi(line).plain for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= columns
    for line, row in zip(lines[1:], rows, strict=True):
        status = row["status"] + (" 45%" if row["status"] == "downloading" else "")
        assert f" {status} " in line
        assert " 4.4 GiB " in line
        assert ("(untrusted)" in line) != row["trusted"]
        assert columns == 60 or len(row["model_id"]) > 32 or row["model_id"] in line


def test_in_a_pipe_no_model_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    long = model("x" * 128, version="9" * 64, trusted=False)
    print_models([model("m"), long])
    line = capsys.readouterr().out.splitlines()[-1]
    words = [long["model_id"], long["version"], "available", "4.4", "GiB", long["blob_hash"][:12]]
    assert line.split() == [*words, short_peer(PEER), "(untrusted)"]


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
