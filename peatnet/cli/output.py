"""What the command prints: data on stdout, everything else on stderr.

stdout carries one thing, the answer: a table, a line, or JSON. Notes, progress and errors go to stderr, so
that ``peatnet models --json | jq`` and ``$(peatnet get m)`` work. Colors and boxes are for terminals only.
"""

# ruff: noqa: PLC0415  # heavy modules are imported late: --help must answer at once

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TextIO

    from peatnet.cli.output_fit import Stage

# What a shell reports of a program that SIGPIPE ended, which is what a reader who left means.
EXIT_BROKEN_PIPE = 141

# Wide enough that no cell of a table is folded or cut when a script reads it.
_PIPE_WIDTH = 4096


class ReaderGone(Exception):
    """stdout's reader has left (``| head``): nothing more to say, and nothing wrong."""


def abandon_stdout() -> None:
    """Point stdout at nowhere, so that the flush at exit does not complain about the reader who left."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_line(text: str) -> None:
    """One line on stdout, flushed.

    Raises:
        ReaderGone: nobody reads stdout any more.
    """
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError as exc:
        raise ReaderGone from exc


def print_json(data: Any, *, indent: bool | None = None) -> None:
    """A JSON document on stdout: indented for a terminal, one line for a script, unless told."""
    pretty = sys.stdout.isatty() if indent is None else indent
    print_line(json_text(data, sys.stdout, indent=2 if pretty else None))


def json_text(data: Any, stream: TextIO, *, indent: int | None = None) -> str:
    """A JSON document for a stream: in JSON's own escapes where its encoding is not UTF-8 and may lack a character."""
    utf8 = (stream.encoding or "").lower().replace("-", "").replace("_", "") == "utf8"
    return json.dumps(data, ensure_ascii=not utf8, indent=indent)


def note(text: str) -> None:
    """A remark on stderr."""
    sys.stderr.write(safe(text) + "\n")
    sys.stderr.flush()


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: str = "",
    ends: str = "",
    shrinking: Sequence[Stage] = (),
) -> None:
    """A table on stdout: colored heads on a terminal, plain aligned columns in a pipe.

    Args:
        columns: the heads.
        rows: cells, which may carry rich markup made by this package (foreign text goes through ``plain``).
        right: the heads, separated by commas, of the columns to align at the right.
        ends: likewise, of the columns of whose cells the end is kept when they are cut.
        shrinking: which columns are cut first where a terminal is too narrow, and how far; see ``output_fit.fit``.

    Raises:
        ReaderGone: nobody reads stdout any more.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from peatnet.cli.output_fit import GAP, cut, fit

    to_terminal = sys.stdout.isatty()
    console = Console(width=None if to_terminal else _PIPE_WIDTH, highlight=False)
    cells = [[Text.from_markup(cell) for cell in row] for row in (columns, *rows)]
    widths = {head: max(row[index].cell_len for row in cells) for index, head in enumerate(columns)}
    gap = GAP
    if to_terminal:
        widths, gap = fit(widths, console.width, shrinking)
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    lines: list[list[Text]] = [[] for _ in cells]
    for index, head in enumerate(columns):
        if not widths[head]:
            continue
        for line, row in zip(lines, cells, strict=True):
            line.append(cut(row[index], widths[head], keep_end=head in ends.split(",")))
        justify = "right" if head in right.split(",") else "left"
        table.add_column(
            lines[0][-1],
            justify=justify,  # type: ignore[arg-type]  # a str here, a Literal there
            no_wrap=True,
        )
    for line in lines[1:]:
        table.add_row(*line)
    with console.capture() as capture:
        console.print(table)
    print_line("\n".join(line.rstrip() for line in capture.get().splitlines()))


def plain(text: str) -> str:
    """Foreign text made safe to show: no rich markup, no control characters."""
    from rich.markup import escape

    return escape(safe(text).replace("\n", "�"))


def safe(text: str) -> str:
    """Foreign text without what could steer a terminal; line breaks stay."""
    return "".join(char if char.isprintable() or char == "\n" else "�" for char in text)


def is_unicode(text: str) -> bool:
    """Whether it can be sent as JSON; a file's name, or what was typed, may be bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def counted(number: int, thing: str, several: str | None = None) -> str:
    """A number of things: ``1 file``, ``2 files``."""
    return f"{number} {thing if number == 1 else several or thing + 's'}"


def human_size(size: float) -> str:
    """Bytes in the largest binary unit that leaves a number of at least 1: ``86.7 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def human_rate(rate: float) -> str:
    """Bytes a second in the largest decimal unit that leaves a number of at least 1: ``12.5 MB/s``."""
    for unit in ("B", "kB", "MB", "GB"):
        if rate < 1000:
            return f"{rate:.4g} {unit}/s"
        rate /= 1000
    return f"{rate:.4g} TB/s"


def human_time(seconds: float) -> str:
    """A duration: ``0.8 s``, ``42 s``, ``3:20``, ``1:02:03``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def short_peer(peer_id: str) -> str:
    """A peer id that fits in a column: its last digits, since all start alike."""
    return peer_id if len(peer_id) <= 16 else f"…{peer_id[-12:]}"


def short_source(name: str) -> str:
    """A source's name (``peer:12D3...``, ``http:host``) that fits in a column."""
    kind, _, rest = name.partition(":")
    return short_peer(rest) if kind == "peer" else name
