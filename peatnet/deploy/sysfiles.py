"""Reading the small files in which a kernel tells of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_MAX_BYTES: Final = 64 * 1024


def read_text(path: Path) -> str:
    """The text of such a file, without white space and NUL around it; "" where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES).decode(errors="replace").strip(" \t\r\n\0")
    except OSError:
        return ""


def read_line(path: Path, limit: int = 128) -> str:
    """The first line of such a file, printable, of at most ``limit`` characters."""
    first = read_text(path).partition("\n")[0][:limit]
    return "".join(char if char.isprintable() else "?" for char in first)


def read_number(path: Path) -> int:
    """The number in such a file; 0 where there is none."""
    text = read_text(path)
    # No counter of a kernel has more digits, and int() would take its time over a million.
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else 0
